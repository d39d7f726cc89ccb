"""Which tokens cover which bytes of a text, told from the tokens alone: byte-level vocabularies spell every byte out.

A byte-level tokenizer's tokens, one after the other, are the text's bytes. So a token starts where the ones before it
end, no engine has to report offsets, and a whole batch is aligned by one running sum.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.dataset_cacher.tokens.engines import TokenBatch
from tunewright.dataset_cacher.tokens.layout import Layout, Runs

TokenEnds = NDArray[np.int32] | NDArray[np.int64]
"""Places in the bytes of a batch, ascending, in 64 bits where 32 might not hold them."""

_SPACE = "Ġ"
"""How byte-level vocabularies write the space."""


@dataclass(frozen=True)
class _Trimming:
    """What the post-processor's `trim_offsets` takes off a token's ends, by token id."""

    leading: NDArray[np.int32]
    trailing: NDArray[np.int32]
    spares_first_space: bool
    """Whether a space that opens the text stays: the post-processor takes it for one that was put there."""


@dataclass(frozen=True)
class ByteAlignment:
    """The bytes that each token of a byte-level vocabulary stands for."""

    num_bytes: NDArray[np.int32]
    """By token id; 0 where no token has that id."""

    trimming: _Trimming | None
    is_composed: bool
    """Whether the tokenizer composes characters (NFC) first."""

    def token_ends(self, batch: TokenBatch) -> TokenEnds:
        """Where each token ends, in bytes from the beginning of the batch."""
        sizes = self.num_bytes.take(batch.ids)
        if len(sizes) * self._most_bytes > np.iinfo(sizes.dtype).max:
            return np.cumsum(sizes, dtype=np.int64)
        return np.cumsum(sizes, dtype=sizes.dtype, out=sizes)  # in 32 bits and in place: no second array to fill

    @cached_property
    def _most_bytes(self) -> int:
        return int(self.num_bytes.max(initial=0))

    def fits(self, texts: Sequence[str], layout: Layout, batch: TokenBatch, token_ends: TokenEnds) -> NDArray[np.bool_]:
        """For each text whether its tokens stand for its bytes one for one."""
        text_ends = np.where(batch.ends > 0, token_ends[batch.ends - 1], 0) if len(token_ends) else batch.ends
        fits: NDArray[np.bool_] = np.diff(text_ends, prepend=0) == layout.sizes
        if self.is_composed:
            fits &= [text.isascii() or unicodedata.is_normalized("NFC", text) for text in texts]
        return fits

    def trained_runs(self, spans: Runs, batch: TokenBatch, token_ends: TokenEnds) -> Runs:
        """The tokens any byte of which is in one of `spans`. Every text must fit."""
        # What is searched for is of the type of what is searched, or numpy would convert all of that.
        starts, ends = spans.starts.astype(token_ends.dtype), spans.ends.astype(token_ends.dtype)
        if self.trimming is None:
            # A token starts where the one before it ends.
            first = np.searchsorted(token_ends, starts, side="right")
            last = np.minimum(np.searchsorted(token_ends, ends, side="left") + 1, len(token_ends))
        else:
            token_starts, token_ends = self._trimmed(self.trimming, token_ends, batch)
            first = np.searchsorted(token_ends, starts, side="right")
            last = np.searchsorted(token_starts, ends, side="left")
        return joined(Runs(spans.texts, first, last))

    def _trimmed(self, trimming: _Trimming, token_ends: TokenEnds, batch: TokenBatch) -> tuple[TokenEnds, TokenEnds]:
        """Starts and ends as `tokenizers` reports them: without the spaces at a token's ends.

        Source: `process_offsets` of tokenizers' byte-level post-processor.
        """
        leading, trailing = trimming.leading[batch.ids], trimming.trailing[batch.ids]
        token_starts = token_ends - self.num_bytes[batch.ids]
        if trimming.spares_first_space:
            firsts = (batch.ends - batch.counts)[batch.counts > 0]
            leading[firsts] = np.maximum(leading[firsts] - 1, 0)
        starts = np.minimum(token_starts + leading, token_ends)
        return starts, np.maximum(token_ends - trailing, starts)


def joined(runs: Runs) -> Runs:
    """`runs` without empty ones, those that touch or overlap in one text as one."""
    holds = runs.ends > runs.starts
    if not holds.all():
        runs = Runs(runs.texts[holds], runs.starts[holds], runs.ends[holds])
    texts, starts, ends = runs.texts, runs.starts, runs.ends
    is_continued = (texts[1:] == texts[:-1]) & (starts[1:] <= ends[:-1])
    if not is_continued.any():  # as nearly always
        return runs
    opens, closes = np.append(True, ~is_continued), np.append(~is_continued, True)
    return Runs(texts[opens], starts[opens], ends[closes])


def find_alignment(pipeline: Mapping[str, Any]) -> ByteAlignment | None:
    """How the tokens of a tokenizer spell their text, or None where they do not: no byte-level vocabulary.

    `pipeline` is its `tokenizer.json`.
    """
    normalizer, model = pipeline.get("normalizer"), pipeline.get("model") or {}
    byte_level = [one for one in _flat(pipeline.get("pre_tokenizer"), "pretokenizers") if one["type"] == "ByteLevel"]
    is_composed = normalizer is not None and normalizer["type"] == "NFC"
    if len(byte_level) != 1 or byte_level[0]["add_prefix_space"] or (normalizer is not None and not is_composed):
        return None
    unknown_ways = (model.get("byte_fallback"), model.get("continuing_subword_prefix"), model.get("end_of_word_suffix"))
    takes_spaces = any(
        token[name] for token in pipeline["added_tokens"] for name in ("lstrip", "rstrip", "single_word")
    )
    if model.get("type") != "BPE" or any(unknown_ways) or takes_spaces:
        return None
    # One character of a byte-level token stands for one byte; what is added is written as it is.
    num_bytes = _by_id(pipeline, len, lambda text: len(text.encode()))
    return ByteAlignment(num_bytes, _find_trimming(pipeline), is_composed)


def vocabulary_size_of(pipeline: Mapping[str, Any]) -> int:
    """One more than the largest id that a tokenizer can give. `pipeline` is its `tokenizer.json`."""
    vocabulary = (pipeline.get("model") or {}).get("vocab") or {}
    ids = vocabulary.values() if isinstance(vocabulary, Mapping) else range(len(vocabulary))  # Unigram has a list
    return 1 + max(max(ids, default=-1), max((token["id"] for token in pipeline["added_tokens"]), default=-1))


def _find_trimming(pipeline: Mapping[str, Any]) -> _Trimming | None:
    trimmers = [one for one in _flat(pipeline.get("post_processor"), "processors") if one.get("trim_offsets")]
    if not trimmers:
        return None

    def leading(token: str) -> int:
        return len(token) - len(token.lstrip(_SPACE).lstrip())

    def trailing(token: str) -> int:
        return len(token) - len(token.rstrip(_SPACE).rstrip())

    return _Trimming(
        leading=_by_id(pipeline, leading, leading),
        trailing=_by_id(pipeline, trailing, trailing),
        spares_first_space=bool(trimmers[-1].get("add_prefix_space")),
    )


def _flat(part: dict[str, Any] | None, list_name: str) -> list[dict[str, Any]]:
    """A part of a tokenizer's pipeline, and where it is a sequence, its parts."""
    if part is None:
        return []
    return (
        [one for inner in part[list_name] for one in _flat(inner, list_name)] if part["type"] == "Sequence" else [part]
    )


def _by_id(
    pipeline: Mapping[str, Any], measure: Callable[[str], int], measure_added: Callable[[str], int]
) -> NDArray[np.int32]:
    """A number for each token: of those of the vocabulary, and of the texts that were added to it."""
    vocabulary: Mapping[str, int] = pipeline["model"]["vocab"]
    table = np.zeros(vocabulary_size_of(pipeline), dtype=np.int32)
    ids = np.fromiter(vocabulary.values(), np.int64, len(vocabulary))
    table[ids] = np.fromiter(map(measure, vocabulary), np.int32, len(vocabulary))
    for token in pipeline["added_tokens"]:
        table[token["id"]] = measure_added(token["content"])
    return table
