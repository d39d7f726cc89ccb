"""Copies of a checkpoint's tensors in the host's memory, so that they can be written while training goes on."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import torch


def compact(_key: str, value: Any) -> Any:
    """`value` itself; of a tensor that is a part of a larger one, a copy: files would hold all of the larger one."""
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach()
    is_whole = value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
    return value if is_whole else value.contiguous().clone()


class HostCopies:
    """Copies that are made again and again, in the same memory where that is dear to get.

    From a GPU tensors go to page-locked memory, which it writes to several times as fast as to other memory. Getting
    such memory is slow: it is kept for the next checkpoint. A copy is good until the next one of the same key.
    """

    def __init__(self) -> None:
        self._locked: dict[str, torch.Tensor] = {}
        self._made: dict[int, tuple[weakref.ref[torch.Tensor], torch.Tensor]] = {}
        self._waits = False

    def copy(self, key: str, value: Any) -> Any:
        """A copy of `value`, a tensor on any device or a plain value. Of a GPU's it is whole after `wait`."""
        if not isinstance(value, torch.Tensor):
            return copy.deepcopy(value)
        known = self._made.get(id(value))
        if known is not None and known[0]() is value:  # kept in two places: files then hold it once too
            return known[1]
        made = self._to_locked(key, value.detach()) if value.is_cuda else value.detach().contiguous().clone()
        self._made[id(value)] = weakref.ref(value), made
        return made

    def wait(self) -> None:
        """Return once all copies that were begun are whole."""
        if self._waits:
            torch.cuda.synchronize()
        self._waits = False
        self._made.clear()

    def _to_locked(self, key: str, tensor: torch.Tensor) -> torch.Tensor:
        place = self._locked.get(key)
        if place is None or place.shape != tensor.shape or place.dtype != tensor.dtype:
            try:
                place = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            except RuntimeError:  # the system locks no more pages for us: other memory does too
                return tensor.to("cpu")
            self._locked[key] = place
        place.copy_(tensor, non_blocking=True)
        self._waits = True
        return place
