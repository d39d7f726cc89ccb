"""Which tokens are trained, told by the special tokens of a template: shorter than to measure every token of a text.

Nothing merges across a special token. Where a template writes one in front of each place at which training begins or
ends, with nothing but fixed text between the two, that token is found among the ids, and the few tokens of the fixed
text are all that has to be measured. A text whose contents have special tokens of their own is not told so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers.pre_tokenizers import ByteLevel

from tunewright.dataset_cacher.chat.texts import SPAN_WIDTH, Skeleton
from tunewright.dataset_cacher.tokens.alignment import ByteAlignment, joined
from tunewright.dataset_cacher.tokens.engines import TokenBatch
from tunewright.dataset_cacher.tokens.layout import Runs
from tunewright.dataset_cacher.tokens.ragged import TupleLists

_NOT_ANCHORED = -1


@dataclass(frozen=True)
class _Anchored:
    """What is known of a skeleton."""

    num_anchors: int
    spans: tuple[tuple[int, int, int, int], ...]
    """What is trained: for start and end, the number of the anchor before it, and the bytes between the two."""


class _Found(NamedTuple):
    """An added token in a fixed text."""

    piece: int
    match: re.Match[str]


class Anchors:
    """The added tokens of a byte-level tokenizer, by which places in texts are found among their tokens."""

    def __init__(self, pipeline: Mapping[str, Any], alignment: ByteAlignment) -> None:
        """`pipeline` is the tokenizer's `tokenizer.json`, and `alignment` what is known of its tokens."""
        self._ids: dict[str, int] = {token["content"]: token["id"] for token in pipeline["added_tokens"]}
        # Of two that begin alike the longer one is found.
        self._pattern = re.compile("|".join(map(re.escape, sorted(self._ids, key=len, reverse=True))))
        self._num_bytes = alignment.num_bytes
        self._is_composed = alignment.is_composed
        has_bytes = pipeline["model"]["vocab"].keys() >= set(ByteLevel.alphabet())
        self._are_usable = bool(self._ids) and has_bytes and alignment.trimming is None
        self._anchor_ids = np.zeros(0, dtype=np.int64)
        self._numbers: dict[Skeleton, int] = {}
        self._num_anchors = np.zeros(0, dtype=np.int64)
        self._spans = TupleLists.of([], SPAN_WIDTH)

    def trained_runs(self, skeletons: Sequence[Skeleton], batch: TokenBatch) -> Runs | None:
        """The tokens any byte of which is trained, given what each text came about by. None where it is not told so."""
        if not self._are_usable:
            return None
        numbers = self._numbers_of(skeletons)
        if numbers is None:
            return None
        expected = self._num_anchors[numbers]
        anchors_until = np.cumsum(expected)
        places = self._places(batch.ids)
        if (np.searchsorted(places, batch.ends) != anchors_until).any():
            return None  # a content has an anchor too
        texts, spans = self._spans.spread(numbers)
        first_anchors = (anchors_until - expected)[texts]
        first_tokens, end_tokens = (places[first_anchors + spans[:, column]] + 1 for column in (0, 2))
        starts = self._behind(first_tokens, spans[:, 1], batch, is_whole=True)
        ends = self._behind(end_tokens, spans[:, 3], batch, is_whole=False)
        return joined(Runs(texts, starts, ends))

    def _places(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Where anchors are."""
        anchors = self._anchor_ids.astype(ids.dtype)
        if not len(anchors):
            return np.zeros(0, np.int64)
        first, last = anchors[0], anchors[-1]
        places = np.flatnonzero((ids - first if first else ids) <= last - first)  # what is below wraps around
        return places if last - first == len(anchors) - 1 else places[np.isin(ids[places], anchors)]

    def _behind(
        self, tokens: NDArray[np.int64], num_bytes: NDArray[np.int64], batch: TokenBatch, is_whole: bool
    ) -> NDArray[np.int64]:
        """The tokens that follow when so many bytes from `tokens` on are left behind.

        A token that is only begun by then is left behind too, unless they must be whole.
        """
        tokens, left = tokens.copy(), num_bytes.copy()
        while True:  # as often as the longest of the fixed texts has tokens
            # Behind the last token of all the last one is looked at again, for nothing: no bytes are left there.
            sizes = self._num_bytes[batch.ids[np.minimum(tokens, len(batch.ids) - 1)]]
            goes_on = sizes <= left if is_whole else left > 0
            if not goes_on.any():
                return tokens
            tokens += goes_on
            left -= sizes * goes_on

    def _numbers_of(self, skeletons: Sequence[Skeleton]) -> NDArray[np.int64] | None:
        """Which of the anchored skeletons each is. None where one of them is not anchored."""
        if not self._numbers.keys() >= set(skeletons):
            unknown = [one for one in dict.fromkeys(skeletons) if one not in self._numbers]
            if not all(one.slots for one in unknown):  # a text that nothing else shares: not worth looking through
                return None
            self._learn(unknown)
        numbers = np.asarray([self._numbers[one] for one in skeletons], dtype=np.int64)
        return None if (numbers < 0).any() else numbers

    def _learn(self, unknown: Sequence[Skeleton]) -> None:
        for skeleton in unknown:
            anchored = self._anchor(skeleton)
            self._numbers[skeleton] = _NOT_ANCHORED if anchored is None else len(self._num_anchors)
            if anchored is not None:
                self._num_anchors = np.append(self._num_anchors, anchored.num_anchors)
                self._spans = self._spans.with_list(anchored.spans)

    def _anchor(self, skeleton: Skeleton) -> _Anchored | None:
        found = [_Found(piece, match) for piece, text in enumerate(skeleton.literals)
                 for match in self._pattern.finditer(text)]  # fmt: skip
        tokens = {one.match[0] for one in found}
        if not all(map(self._is_clear, tokens)):
            return None
        self._anchor_ids = np.union1d(self._anchor_ids, [self._ids[token] for token in tokens]).astype(np.int64)
        before, spans = [0, *accumulate(map(len, skeleton.literals))], []
        for start, first_slot, end, last_slot in skeleton.spans:
            behind_start = self._anchor_before(found, first_slot, start - before[first_slot])
            behind_end = self._anchor_before(found, last_slot, end - before[last_slot])
            if behind_start is None or behind_end is None:
                return None
            spans.append((*behind_start, *behind_end))
        return _Anchored(len(found), tuple(spans))

    def _anchor_before(self, found: Sequence[_Found], piece: int, place: int) -> tuple[int, int] | None:
        """The last anchor before a place in a piece of fixed text, and how many bytes are between them.

        None without one, or where the text between the two is not always spelled the same: where characters are
        composed, the last one might be with the first of a content, but for white space.
        """
        numbers = [number for number, one in enumerate(found) if one.piece == piece and one.match.end() <= place]
        if not numbers:
            return None
        match = found[numbers[-1]].match
        between = match.string[match.end() : place]
        is_fixed = not self._is_composed or not between or (between.isascii() and between[-1].isspace())
        return (numbers[-1], len(between.encode())) if is_fixed else None

    def _is_clear(self, token: str) -> bool:
        """Whether `token`, where it is written, is always found: no other added token can begin or end within it."""
        return not (self._is_composed and not token.isascii()) and not any(
            _overlap(token, other) for other in self._ids
        )


def _overlap(one: str, other: str) -> bool:
    """Whether a text can have both so that they share a character, but for the same token at the same place."""
    if one != other and (one in other or other in one):
        return True
    lengths = range(1, min(len(one), len(other)))
    return any(one.endswith(other[:length]) or other.endswith(one[:length]) for length in lengths)
