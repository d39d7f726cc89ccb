"""Which rows of a source are taken, how often and in which order: a pure function of sizes and the seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indexes = NDArray[np.int64]


def rows_to_take(size: int, fraction: float | None, rows: int | None) -> int:
    """How many rows `fraction` of, or `rows` from, a source of `size` rows are."""
    # The small term keeps 0.29 of 100 from being 28: 0.29 * 100 is a little less than 29.
    return rows if rows is not None else int(size * (fraction or 0.0) + 1e-9)


def sample_rows(size: int, count: int, seed: int) -> Indexes:
    """The indexes of `count` rows out of `size`: whole repeats in order, then a random choice for what remains.

    The stream of `RandomState` is frozen by numpy: the same in every version.
    """
    repeats, remainder = divmod(count, size)
    whole = np.tile(np.arange(size, dtype=np.int64), repeats)
    if not remainder:
        return whole
    chosen = np.random.RandomState(seed).choice(size, remainder, replace=False)
    return np.concatenate([whole, chosen.astype(np.int64)])


def shuffled(count: int, seed: int) -> Indexes:
    """A permutation of `count` rows."""
    return np.random.RandomState(seed).permutation(count).astype(np.int64)
