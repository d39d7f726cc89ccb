"""A row of a cache as people read it: its text in parts, each trained or not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.errors import CacheCorrupted, NotFound
from tunewright.dataset_cacher.encoding import read_tokenizer
from tunewright.dataset_cacher.shards import CachedRow


@dataclass(frozen=True)
class Part:
    """Tokens beside each other that all count in the loss, or all do not."""

    ids: list[int]
    text: str
    is_trained: bool


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
