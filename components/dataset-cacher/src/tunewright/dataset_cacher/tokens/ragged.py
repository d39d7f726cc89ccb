"""Lists of different lengths kept one behind the other in a single array."""

from __future__ import annotations

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
