"""Lists of different lengths kept one behind the other in a single array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray


def gather(values: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[Any]) -> NDArray[Any]:
    """The lists that start at `starts` in `values` and have `lengths`, one behind the other in the order given."""
    starts, ends = np.asarray(starts, dtype=np.int64), starts + np.asarray(lengths, dtype=np.int64)
    if not len(starts):
        return values[:0]
    # What lies beside each other is copied at once: mostly all of it.
    breaks = np.flatnonzero(starts[1:] != ends[:-1]) + 1
    firsts, lasts = starts[np.append(0, breaks)].tolist(), ends[np.append(breaks - 1, len(ends) - 1)].tolist()
    pieces = [values[first:last] for first, last in zip(firsts, lasts, strict=True)]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def starts_of(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Where lists of `lengths` start when they lie one behind the other."""
    ends: NDArray[np.int64] = np.cumsum(lengths, dtype=np.int64)
    return ends - lengths.astype(np.int64)


@dataclass(frozen=True)
class TupleLists:
    """Lists of tuples, all of one width, that many things share."""

    tuples: NDArray[np.int64]
    """Shape (tuples, width): those of all lists."""

    lengths: NDArray[np.int64]
    """Shape (lists,)."""

    @classmethod
    def of(cls, lists: Sequence[Sequence[Sequence[int]]], width: int) -> TupleLists:
        """The same as arrays."""
        tuples = np.asarray(list(chain.from_iterable(lists)), np.int64).reshape(-1, width)
        return cls(tuples, np.asarray([len(one) for one in lists], np.int64))

    def with_list(self, one: Sequence[Sequence[int]]) -> TupleLists:
        """These lists and one more."""
        tuples = np.asarray(one, np.int64).reshape(-1, self.tuples.shape[1])
        return TupleLists(np.concatenate((self.tuples, tuples)), np.append(self.lengths, len(tuples)))

    def spread(self, list_of: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The tuples of things, given the list of each.

        Gives for each tuple the thing, ascending, and the tuples. Shapes (tuples,) and (tuples, width).
        """
        lengths = self.lengths[list_of]
        things = np.repeat(np.arange(len(list_of)), lengths)
        places = (starts_of(self.lengths)[list_of] - starts_of(lengths))[things] + np.arange(len(things))
        return things, self.tuples[places]
