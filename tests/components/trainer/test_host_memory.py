"""Tensors get the memory that others have freed, without the system's help."""

from __future__ import annotations

import resource

import pytest
import torch

from tunewright.trainer.host_memory import keep_freed_memory

_ENTRIES = 10 * 2**20  # 40 MiB: glibc maps what is larger than 32 MiB apart
_ROUNDS = 16


def test_a_large_tensor_takes_the_pages_of_the_one_before() -> None:
    if not keep_freed_memory():
        pytest.skip("malloc is not glibc's here")
    fill_again_and_again()  # slivers that malloc keeps for small requests lie between the first ones
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    fill_again_and_again()
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < _ROUNDS * _ENTRIES * 4 // resource.getpagesize() / 10


def fill_again_and_again() -> None:
    for _ in range(_ROUNDS):
        torch.ones(_ENTRIES)
