"""Which encoded rows of a source are kept: those of which every conversation can be trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tunewright.dataset_cacher.preparation.drops import EQUAL_ANSWERS, NO_TRAINED_TOKENS
from tunewright.dataset_cacher.preparation.parts import DROP_REASONS, FIRST_DROP, KEPT
from tunewright.dataset_cacher.tokens.encoding import EncodedRows
from tunewright.dataset_cacher.tokens.ragged import starts_of


def statuses_of(encoded: EncodedRows, sequences_per_row: int) -> NDArray[np.uint8]:
    """What becomes of each row of a source, given its conversations one behind the other. Shape (rows,).

    A pair is kept or left out as a whole.
    """
    has_trained = (encoded.num_trained > 0).reshape(-1, sequences_per_row).all(axis=1)
    statuses = np.where(has_trained, KEPT, _status_of(NO_TRAINED_TOKENS)).astype(np.uint8)
    if sequences_per_row == 2:
        statuses[has_trained & _are_equal(encoded)] = _status_of(EQUAL_ANSWERS)
    return statuses


def _status_of(reason: str) -> int:
    return FIRST_DROP + DROP_REASONS.index(reason)


def _are_equal(encoded: EncodedRows) -> NDArray[np.bool_]:
    """Whether both sequences of a pair are the same tokens. Shape (pairs,)."""
    firsts, lengths = starts_of(encoded.lengths)[::2], encoded.lengths[::2]
    equal: NDArray[np.bool_] = lengths == encoded.lengths[1::2]
    for pair in np.flatnonzero(equal).tolist():
        middle = int(firsts[pair]) + int(lengths[pair])
        chosen, rejected = encoded.ids[firsts[pair] : middle], encoded.ids[middle : middle + int(lengths[pair])]
        equal[pair] = np.array_equal(chosen, rejected)
    return equal
