"""Which rows are taken: a pure function of sizes and the seed, in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.random import RandomState

from tunewright.dataset_cacher.reading.sampling import sample_rows, shuffled


@pytest.mark.parametrize(("size", "count"), [(10, 4), (10, 10), (10, 25), (10, 30), (1, 3), (7, 1)])
def test_repeats_are_in_order_and_the_rest_is_numpys_choice(size: int, count: int) -> None:
    rest = RandomState(5).choice(size, count % size, replace=False).tolist()
    assert sample_rows(size, count, seed=5).tolist() == list(range(size)) * (count // size) + rest


def test_a_shuffle_is_numpys_permutation() -> None:
    assert shuffled(1000, seed=5).tolist() == RandomState(5).permutation(1000).tolist()


def test_what_is_drawn_for_a_seed_is_the_same_for_ever() -> None:
    assert sample_rows(10, 4, seed=17).tolist() == [7, 2, 5, 3]
    assert shuffled(6, seed=17).tolist() == [2, 3, 4, 0, 5, 1]


@pytest.mark.parametrize("fraction", [0.5, 1.0, 1.5])
def test_sampling_takes_little_memory_for_each_row(fraction: float) -> None:
    size, count = 1_000_000, int(1_000_000 * fraction)
    tracemalloc.start()
    indexes = sample_rows(size, count, seed=1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert indexes.dtype == np.uint32
    # 4 bytes for each row that is taken; 8 for each there is are numpy's permutation, for a moment.
    assert peak <= 8 * size + 4 * count + 100_000
