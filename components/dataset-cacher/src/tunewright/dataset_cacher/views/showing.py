"""A row of a cache as people read it: its text in parts and in tokens, each trained or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.errors import CacheCorrupted, NotFound
from tunewright.dataset_cacher.preparation.shards import CachedRow, read_row
from tunewright.dataset_cacher.tokens.encoding import read_tokenizer

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a decoder gives for bytes that are no whole character."""

_CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
_NO_CONTROLS = _CONTROL_PICTURES | {code: ord(UNFINISHED) for code in range(0x80, 0xA0)}


@dataclass(frozen=True)
class Part:
    """Tokens beside each other that all count in the loss, or all do not."""

    ids: list[int]
    text: str
    is_trained: bool


@dataclass(frozen=True)
class Token:
    """One token of a row."""

    id: int
    text: str
    """What the token adds to the text. Empty where it ends inside a character: the token that ends it has all of it."""

    is_trained: bool
    is_special: bool


def read_rows(cache: Path, manifest: DatasetManifest, first: int, count: int) -> list[CachedRow]:
    """Rows `first` to `first + count`, fewer where the cache ends. Only the shards that hold them are read and checked.

    Raises NotFound for a first row that is not there, CacheCorrupted for a shard that is not what the manifest says.
    """
    if first >= manifest.rows:
        raise NotFound(f"row {first}: the cache has {manifest.rows} rows, 0 to {manifest.rows - 1}")
    end, begins = min(first + count, manifest.rows), 0
    problems = []
    for shard in manifest.shards:
        if begins < end and first < begins + shard.rows and (problem := shard.problem(cache)) is not None:
            problems.append(problem)
        begins += shard.rows
    if problems:
        raise CacheCorrupted("\n".join(problems))
    return [read_row(cache, manifest, number) for number in range(first, end)]


def open_tokenizer(cache: Path, manifest: DatasetManifest) -> Tokenizer:
    """The tokenizer that made the cache, checked."""
    if manifest.tokenizer is None:
        raise NotFound(f"{cache}: the cache brings no tokenizer to read it with")
    if (problem := manifest.tokenizer.problem(cache)) is not None:
        raise CacheCorrupted(problem)
    return read_tokenizer(cache / manifest.tokenizer.file)


def parts_of(row: CachedRow, tokenizer: Tokenizer) -> list[Part]:
    """The row from its first token to its last. A character that two parts share shows as the replacement character."""
    ids = row.ids.tolist()
    edges = [0, *row.spans.tolist(), len(ids)]
    pieces = [(ids[start:end], bool(number % 2)) for number, (start, end) in enumerate(pairwise(edges))]
    return [
        Part(piece, tokenizer.decode(piece, skip_special_tokens=False), is_trained)
        for piece, is_trained in pieces
        if piece
    ]


def tokens_of(row: CachedRow, tokenizer: Tokenizer) -> list[Token]:
    """Every token of the row with its own part of the text."""
    ids = row.ids.tolist()
    trained = np.zeros(len(ids), dtype=np.bool_)
    for start, end in row.spans.reshape(-1, 2).tolist():
        trained[start:end] = True
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    texts = _texts_of(ids, tokenizer)
    return [
        Token(one, text, is_trained, one in special)
        for one, text, is_trained in zip(ids, texts, trained.tolist(), strict=True)
    ]


def without_controls(text: str) -> str:
    """The text without what a terminal would obey: control characters as pictures, but for tabs and line breaks."""
    return text.translate(_NO_CONTROLS)


def _texts_of(ids: Sequence[int], tokenizer: Tokenizer) -> Iterator[str]:
    """What each token adds to the text, decoded behind those before it: some decoders drop a leading space.

    Two windows slide along, as in text generation: `before` starts at the tokens that gave the last text, `start` at
    the first one whose text is not given yet.
    """
    before = start = 0
    for end in range(1, len(ids) + 1):
        known = tokenizer.decode(ids[before:start], skip_special_tokens=False)
        text = tokenizer.decode(ids[before:end], skip_special_tokens=False)
        if text.endswith(UNFINISHED) and end < len(ids) and end - start < 4:  # no character has more than four bytes
            yield ""
            continue
        yield text[len(known) :]
        before, start = start, end
