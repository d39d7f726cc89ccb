"""Which rows of a source are taken, how often and in which order: a pure function of sizes and the seed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Indexes = NDArray[np.integer[Any]]
"""Row numbers, 4 bytes each where there are at most 2^32 rows. Making them takes 8 more bytes for each row of the
source, for a moment: numpy draws permutations of 64-bit numbers."""


def rows_to_take(size: int, fraction: float | None, rows: int | None) -> int:
    """How many rows `fraction` of, or `rows` from, a source of `size` rows are."""
    # The small term keeps 0.29 of 100 from being 28: 0.29 * 100 is a little less than 29.
    return rows if rows is not None else int(size * (fraction or 0.0) + 1e-9)


def sample_rows(size: int, count: int, seed: int) -> Indexes:
    """The indexes of `count` rows out of `size`: whole repeats in order, then a random choice for what remains.

    The stream of `RandomState` is frozen by numpy: the same in every version.
    """
    repeats, remainder = divmod(count, size)
    kind = _type_for(size)
    # First, so that numpy's permutation is gone when the answer is made.
    chosen = np.random.RandomState(seed).choice(size, remainder, replace=False).astype(kind) if remainder else None
    indexes = np.empty(count, dtype=kind)
    indexes[: repeats * size].reshape(repeats, size)[:] = np.arange(size, dtype=kind)
    if chosen is not None:
        indexes[repeats * size :] = chosen
    return indexes


def shuffled(count: int, seed: int) -> Indexes:
    """A permutation of `count` rows."""
    return np.random.RandomState(seed).permutation(count).astype(_type_for(count))


def _type_for(size: int) -> type[np.unsignedinteger[Any]]:
    """The smaller type that holds every index below `size`."""
    return np.uint32 if size <= 1 << 32 else np.uint64
