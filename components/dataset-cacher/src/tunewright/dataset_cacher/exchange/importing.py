"""Caches that others have made, as caches of ours: the same shards, spans, plan and statistics."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.contracts.datasets import DatasetManifest, FileRecord
from tunewright.contracts.errors import InvalidDataset
from tunewright.contracts.files import json_text, sha256_of_file
from tunewright.contracts.spec import digest_of
from tunewright.dataset_cacher.exchange.open_instruct_cache import ImportedRows, OpenInstructCache, read_imported
from tunewright.dataset_cacher.inputs import CACHE_FORMAT_VERSION, PACKING_ALGORITHM
from tunewright.dataset_cacher.preparation.drops import NO_TRAINED_TOKENS
from tunewright.dataset_cacher.preparation.packing import pack
from tunewright.dataset_cacher.preparation.shards import CachedRow, ShardWriter, write_packing
from tunewright.dataset_cacher.preparation.statistics import STATISTICS_FILE, RowColumns, statistics_of
from tunewright.dataset_cacher.tokens.encoding import load_tokenizer, smallest_unsigned_type
from tunewright.dataset_cacher.tokens.tokenizer_files import TOKENIZER_FILE, TokenizerFiles

OPEN_INSTRUCT = "open-instruct"
IMPORT_VERSION = 1
"""Raise it when an import makes something else of the same files."""

FILTERED = "filtered_by_open_instruct"


@dataclass(frozen=True)
class Import:
    """What is imported, measured and named."""

    cache: OpenInstructCache
    tokenizer: TokenizerFiles | None
    max_length_tokens: int
    vocabulary_size: int
    """One more than the largest id that can be there: by the tokenizer, else by what is there."""

    token_ids: dict[str, int | None]
    """`eos_token` and `pad_token`, as far as a tokenizer tells."""

    stamps: list[tuple[int, int, int]]
    """What changes when a file does, taken before it was read."""

    key: dict[str, Any]
    digest: str


@dataclass
class _Source:
    """One dataset of the mix."""

    name: str
    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def measure_import(cache: OpenInstructCache, tokenizer: TokenizerFiles | None, max_length_tokens: int | None) -> Import:
    """Look through all rows: what they need, and the digest of the cache they will be.

    The longest row may have `max_length_tokens`; None: what open-instruct's configuration says, else what the longest
    row has. Raises InvalidDataset, naming the row, for one that is longer, or that has an id the tokenizer has not.
    """
    stamps = _stamps(cache)
    longest, largest = _extent(cache, _Limit(max_length_tokens or cache.max_length_tokens, None))
    length = max_length_tokens or cache.max_length_tokens or longest
    vocabulary_size, token_ids = largest + 1, dict[str, int | None]()
    if tokenizer is not None:
        loaded = load_tokenizer(tokenizer)
        vocabulary_size = max(loaded.get_vocab(with_added_tokens=True).values()) + 1
        if largest >= vocabulary_size:
            _extent(cache, _Limit(None, vocabulary_size))
        named = tokenizer.named_tokens
        token_ids = {name: loaded.token_to_id(named[name]) for name in ("eos_token", "pad_token") if name in named}
    key = _key(cache, tokenizer, length)
    return Import(cache, tokenizer, length, vocabulary_size, token_ids, stamps, key, digest_of(key))


def import_cache(imported: Import, directory: Path) -> DatasetManifest:
    """Write everything but the manifest into `directory`, and give the manifest.

    A row in which nothing is trained is left out and counted, as in every cache of ours.
    """
    id_type = np.dtype(smallest_unsigned_type(imported.vocabulary_size))
    writer = ShardWriter(directory, id_type)
    kept = _Kept()
    try:
        for row in kept.rows_of(imported.cache, id_type):
            writer.append(row)
        columns = kept.columns()
        if not len(columns.lengths):
            raise InvalidDataset(f"{imported.cache.directory}: no row is left to train on: no label differs from -100")
        shards = writer.finish()
        if _stamps(imported.cache) != imported.stamps:
            raise InvalidDataset(
                f"{imported.cache.directory}: changed while it was read", "try again when it is written"
            )
    finally:
        writer.abort()
    dropped = [_dropped(source, imported.cache.filtered) for source in kept.sources]
    plan = pack(columns.lengths, imported.max_length_tokens)
    statistics = statistics_of(columns, dropped, len(plan), imported.max_length_tokens, "imported")
    sources = tuple(
        {**_identity(source), **numbers} for source, numbers in zip(kept.sources, statistics["sources"], strict=True)
    )
    document = json_text({**statistics, "sources": list(sources)})
    (directory / STATISTICS_FILE).write_text(document, encoding="utf-8")
    return DatasetManifest(
        format_version=CACHE_FORMAT_VERSION,
        digest=imported.digest,
        key=imported.key,
        id_type=id_type.name,
        vocabulary_size=imported.vocabulary_size,
        eos_token_id=imported.token_ids.get("eos_token"),
        pad_token_id=imported.token_ids.get("pad_token"),
        rows=statistics["rows"],
        tokens=statistics["tokens"],
        trained_tokens=statistics["trained_tokens"],
        dropped=statistics["dropped"],
        sources=sources,
        shards=shards,
        packing=write_packing(directory, plan),
        statistics=FileRecord.of(directory, STATISTICS_FILE),
        tokenizer=_copy_tokenizer(imported.tokenizer, directory),
    )


@dataclass(frozen=True)
class _Limit:
    """What a row may have; None: anything."""

    max_length_tokens: int | None
    vocabulary_size: int | None

    def check(self, rows: ImportedRows, directory: Path) -> None:
        """Raise InvalidDataset for the first row that has more."""
        lengths = np.diff(rows.edges)
        if self.max_length_tokens is not None and (long := np.flatnonzero(lengths > self.max_length_tokens)).size:
            row = int(long[0])
            what = f"has {lengths[row]:,} tokens, more than {self.max_length_tokens:,}"
            raise InvalidDataset(f"{directory}: row {rows.first + row} {what}", "give a larger --max-length-tokens")
        if self.vocabulary_size is not None and (large := np.flatnonzero(rows.ids >= self.vocabulary_size)).size:
            row = int(np.searchsorted(rows.edges, large[0], side="right")) - 1
            what = f"has the id {rows.ids[large[0]]}, the tokenizer has {self.vocabulary_size:,}"
            raise InvalidDataset(f"{directory}: row {rows.first + row} {what}", "is it another --tokenizer?")


def _extent(cache: OpenInstructCache, limit: _Limit) -> tuple[int, int]:
    """The tokens of the longest row and the largest id."""
    longest = largest = 0
    for rows in read_imported(cache):
        limit.check(rows, cache.directory)
        longest = max(longest, int(np.diff(rows.edges).max(initial=0)))
        largest = max(largest, int(rows.ids.max(initial=0)))
    if not longest:
        raise InvalidDataset(f"{cache.directory}: has no rows")
    return longest, largest


def _stamps(cache: OpenInstructCache) -> list[tuple[int, int, int]]:
    stats = [path.stat() for path in cache.deciding_files]
    return [(stat.st_size, stat.st_mtime_ns, stat.st_ino) for stat in stats]


def _key(cache: OpenInstructCache, tokenizer: TokenizerFiles | None, max_length_tokens: int) -> dict[str, Any]:
    """What decides an import, and nothing that does not: no path, no time, no machine."""
    return {
        "cache_format_version": CACHE_FORMAT_VERSION,
        "imported": {
            "format": OPEN_INSTRUCT,
            "version": IMPORT_VERSION,
            "files": [{"file": path.name, "sha256": sha256_of_file(path)} for path in cache.deciding_files],
        },
        "tokenizer": None
        if tokenizer is None
        else {
            "sha256": tokenizer.sha256,
            "named_tokens": tokenizer.named_tokens,
            "other_tokens": list(tokenizer.other_tokens),
        },
        "chat_template": {"name": cache.chat_template or "unknown", "source": None},
        "max_length_tokens": max_length_tokens,
        "packing": PACKING_ALGORITHM,
    }


class _Kept:
    """The rows as they go by: which are kept, and what the statistics need of them."""

    def __init__(self) -> None:
        self.sources: list[_Source] = []
        self._lengths: list[NDArray[np.uint32]] = []
        self._trained: list[NDArray[np.uint32]] = []
        self._of_source: list[NDArray[np.uint16]] = []

    def rows_of(self, cache: OpenInstructCache, id_type: np.dtype[Any]) -> Iterator[CachedRow]:
        """Every row with something to train on."""
        for rows in read_imported(cache):
            yield from self._keep(rows, id_type)

    def columns(self) -> RowColumns:
        """What was kept. No row of an import is known to be cut: open-instruct does not say."""
        lengths = np.concatenate([np.empty(0, np.uint32), *self._lengths])
        trained = np.concatenate([np.empty(0, np.uint32), *self._trained])
        sources = np.concatenate([np.empty(0, np.uint16), *self._of_source])
        return RowColumns(lengths, trained, sources, np.zeros(len(lengths), dtype=np.bool_))

    def _keep(self, rows: ImportedRows, id_type: np.dtype[Any]) -> Iterator[CachedRow]:
        ids, lengths = rows.ids.astype(id_type), np.diff(rows.edges)
        in_front = np.concatenate([[0], np.cumsum(np.diff(rows.spans.astype(np.int64), axis=1)[:, 0])])
        trained = np.diff(in_front[rows.span_edges])
        sources = np.asarray([self._source(name) for name in rows.datasets], dtype=np.uint16)
        kept = trained > 0
        self._lengths.append(lengths[kept].astype(np.uint32))
        self._trained.append(trained[kept].astype(np.uint32))
        self._of_source.append(sources[kept])
        edges, span_edges = rows.edges.tolist(), rows.span_edges.tolist()
        for row, (source, is_kept) in enumerate(zip(sources.tolist(), kept.tolist(), strict=True)):
            number = self.sources[source].read
            self.sources[source].read += 1
            if is_kept:
                spans = rows.spans[span_edges[row] : span_edges[row + 1]].reshape(-1)
                yield CachedRow(ids[edges[row] : edges[row + 1]], spans, source, number)
            else:
                self.sources[source].dropped[NO_TRAINED_TOKENS] += 1

    def _source(self, name: str) -> int:
        """The place of a dataset in the mix: the order in which its first rows come."""
        for number, source in enumerate(self.sources):
            if source.name == name:
                return number
        self.sources.append(_Source(name))
        return len(self.sources) - 1


def _dropped(source: _Source, filtered: dict[str, int]) -> Counter[str]:
    """By reason. Without names of datasets, all that were filtered are of the one there is."""
    count = filtered.get(source.name, 0) if source.name else sum(filtered.values())
    return source.dropped + Counter({FILTERED: count})


def _identity(source: _Source) -> dict[str, Any]:
    named = {"name": source.name} if source.name else {}
    return {**named, "format": OPEN_INSTRUCT, "rows_available": source.read, "rows_taken": source.read,
            "rows_repeated": 0}  # fmt: skip


def _copy_tokenizer(tokenizer: TokenizerFiles | None, directory: Path) -> FileRecord | None:
    if tokenizer is None:
        return None
    shutil.copyfile(tokenizer.tokenizer, directory / TOKENIZER_FILE)
    return FileRecord.of(directory, TOKENIZER_FILE)
