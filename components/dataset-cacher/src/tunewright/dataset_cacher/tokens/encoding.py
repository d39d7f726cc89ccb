"""Rendered conversations to rows of token ids, with the tokens that count in the loss."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.dataset_cacher.chat.masking import CharSpan, Rendered
from tunewright.dataset_cacher.chat.texts import TextBatch
from tunewright.dataset_cacher.tokens.alignment import find_alignment, vocabulary_size_of
from tunewright.dataset_cacher.tokens.anchors import Anchors
from tunewright.dataset_cacher.tokens.engines import REFERENCE, Engine, TokenBatch
from tunewright.dataset_cacher.tokens.layout import Runs, in_bytes, layout_of, rendered_of
from tunewright.dataset_cacher.tokens.ragged import gather, starts_of
from tunewright.dataset_cacher.tokens.tokenizer_files import TokenizerFiles


@dataclass(frozen=True)
class EncodedRows:
    """The tokens of several conversations, one behind the other."""

    ids: NDArray[Any]
    """Shape (tokens,), in the smallest unsigned type that holds the vocabulary."""

    lengths: NDArray[np.uint32]
    """Shape (rows,): tokens of each row."""

    spans: NDArray[np.uint32]
    """Start, end, start, end, ... of each row: half-open ranges of its tokens that count in the loss."""

    num_bounds: NDArray[np.uint32]
    """Shape (rows,): how many of `spans` are each row's."""

    is_truncated: NDArray[np.bool_]
    """Shape (rows,)."""

    @property
    def num_trained(self) -> NDArray[np.uint32]:
        """Shape (rows,): tokens of each row that count in the loss."""
        rows = np.repeat(np.arange(len(self.lengths)), self.num_bounds // 2)
        in_spans = (self.spans[1::2] - self.spans[::2]).astype(np.float64)  # exact: far below 2**53
        return np.bincount(rows, weights=in_spans, minlength=len(self.lengths)).astype(np.uint32)

    def take(self, rows: NDArray[np.int64]) -> EncodedRows:
        """The rows of these numbers, in this order."""
        lengths, num_bounds = self.lengths[rows], self.num_bounds[rows]
        ids = gather(self.ids, starts_of(self.lengths)[rows], lengths)
        spans = gather(self.spans, starts_of(self.num_bounds)[rows], num_bounds)
        return EncodedRows(ids, lengths, spans, num_bounds, self.is_truncated[rows])

    @classmethod
    def none(cls, id_type: np.dtype[Any]) -> EncodedRows:
        """No rows."""
        numbers = np.zeros(0, dtype=np.uint32)
        return cls(numbers.astype(id_type), numbers, numbers, numbers, numbers.astype(np.bool_))

    @classmethod
    def concatenate(cls, parts: Sequence[EncodedRows]) -> EncodedRows:
        """All rows of `parts`, which are at least one."""
        columns = [[getattr(part, name) for part in parts] for name in cls.__dataclass_fields__]
        return cls(*(column[0] if len(column) == 1 else np.concatenate(column) for column in columns))


class Encoder:
    """Encodes as a Hugging Face tokenizer does with `add_special_tokens=False`, with the engine that it is given."""

    def __init__(self, tokenizer: Tokenizer, engine: Engine, pipeline: Mapping[str, Any]) -> None:
        self.engine = engine
        self._tokenizer = tokenizer
        self.vocabulary_size = vocabulary_size_of(pipeline)
        self.id_type = np.dtype(smallest_unsigned_type(self.vocabulary_size))
        # Where tokens cannot be aligned with the text by themselves, only the reference knows what each one covers.
        self._alignment = find_alignment(pipeline) if engine.name != REFERENCE else None
        self._anchors = None if self._alignment is None else Anchors(pipeline, self._alignment)

    @property
    def is_fast(self) -> bool:
        """Whether anything is left to the engine: without an alignment the reference encodes every row."""
        return self._alignment is not None

    def encode(self, texts: TextBatch, max_length_tokens: int) -> EncodedRows:
        """Each text's tokens, cut at the right end; a token counts where any character of it does.

        Raises UnicodeEncodeError for half of a surrogate pair.
        """
        if self._alignment is None or self._anchors is None:
            return self._encode_by_reference(rendered_of(texts), max_length_tokens)
        batch = self.engine.encode(texts.texts).cast(self.id_type)
        runs = self._anchors.trained_runs(texts.skeletons, batch)
        if runs is not None:
            return cut(batch, runs, max_length_tokens)
        layout, token_ends = in_bytes(layout_of(texts), texts.texts), self._alignment.token_ends(batch)
        fits = self._alignment.fits(texts.texts, layout, batch, token_ends)
        if fits.all():
            return cut(batch, self._alignment.trained_runs(layout.spans, batch, token_ends), max_length_tokens)
        # A text that the tokenizer rewrites: rare, so what was encoded of the batch is not worth keeping.
        rendered, parts = rendered_of(texts), []
        if fits.any():
            fitting = TextBatch.of([rendered[row] for row in np.flatnonzero(fits).tolist()])
            parts.append(self.encode(fitting, max_length_tokens))
        others = [rendered[row] for row in np.flatnonzero(~fits).tolist()]
        parts.append(self._encode_by_reference(others, max_length_tokens))
        back = np.argsort(np.argsort(~fits, kind="stable"))
        return EncodedRows.concatenate(parts).take(back)

    def _encode_by_reference(self, texts: Sequence[Rendered], max_length_tokens: int) -> EncodedRows:
        """By the engine that reports the characters of each token."""
        if not texts:
            return EncodedRows.none(self.id_type)
        for one in texts:
            one.text.encode()  # for half of a surrogate pair the library has an error that could be anything
        encodings = self._tokenizer.encode_batch([one.text for one in texts], add_special_tokens=False)
        ids = [np.asarray(encoding.ids, dtype=np.uint32) for encoding in encodings]
        ends = np.cumsum([len(one) for one in ids], dtype=np.int64)
        numbers, starts, stops = [], [], []
        for number, (one, encoding, end) in enumerate(zip(texts, encodings, ends, strict=True)):
            offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
            runs = token_spans(offsets[:, 0], offsets[:, 1], one.spans).reshape(-1, 2) + (end - len(offsets))
            numbers.append(np.full(len(runs), number))
            starts.append(runs[:, 0])
            stops.append(runs[:, 1])
        batch = TokenBatch(np.concatenate(ids), ends).cast(self.id_type)
        runs = Runs(np.concatenate(numbers), np.concatenate(starts), np.concatenate(stops))
        return cut(batch, runs, max_length_tokens)


def cut(batch: TokenBatch, runs: Runs, max_length_tokens: int) -> EncodedRows:
    """Rows of at most the length allowed, with `runs`, which are counted from the first token of the batch."""
    counts = batch.counts
    lengths = np.minimum(counts, max_length_tokens)
    firsts = batch.ends - counts
    starts = runs.starts - firsts[runs.texts]
    ends = np.minimum(runs.ends - firsts[runs.texts], lengths[runs.texts])
    kept = starts < ends
    spans = np.stack((starts[kept], ends[kept]), axis=1).astype(np.uint32).ravel()
    num_bounds = 2 * np.bincount(runs.texts[kept], minlength=len(counts))
    ids = gather(batch.ids, firsts, lengths)
    return EncodedRows(ids, lengths.astype(np.uint32), spans, num_bounds.astype(np.uint32), counts > max_length_tokens)


def special_tokens_of(tokenizer: Tokenizer, files: TokenizerFiles) -> tuple[str, ...]:
    """The texts that are one token each and never part of another: named ones first."""
    special = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    return tuple(dict.fromkeys((*files.named_tokens.values(), *special)))


def token_spans(starts: NDArray[Any], ends: NDArray[Any], spans: Sequence[CharSpan]) -> NDArray[np.uint32]:
    """The tokens whose characters overlap one of `spans`, as runs: start, end, start, end, ..."""
    trained = np.zeros(len(starts) + 2, dtype=np.int8)  # with an untrained token before and after, for the edges
    for start, end in spans:
        trained[1:-1] |= (starts < end) & (ends > start)
    return np.flatnonzero(np.diff(trained)).astype(np.uint32)


def smallest_unsigned_type(vocabulary_size: int) -> str:
    """The name of the smallest unsigned type that holds every id below `vocabulary_size`."""
    return next(f"uint{bits}" for bits in (8, 16, 32) if vocabulary_size <= 2**bits)


def load_tokenizer(files: TokenizerFiles) -> Tokenizer:
    """The tokenizer of `files`, with the special tokens of its configuration, cutting and padding nothing.

    Raises InvalidExperiment for a file that `tokenizers` does not take, and for special tokens it does not have.
    """
    tokenizer = read_tokenizer(files.tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    wanted = [*files.named_tokens.items(), *(("added token", token) for token in files.other_tokens)]
    problems = [
        Problem(name, f"`{token}` is not in {files.tokenizer.name}", "save the tokenizer again with transformers")
        for name, token in wanted
        if tokenizer.token_to_id(token) is None
    ]
    if problems:
        raise InvalidExperiment.from_problems(str(files.directory), problems)
    # As transformers does: what the configuration calls a token is one token, wherever it stands.
    tokenizer.add_tokens([AddedToken(token, special=True) for _, token in wanted if token not in known])
    return tokenizer


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer in the file `path`."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise InvalidExperiment(f"{path}: `tokenizers` cannot read it: {error}") from None
