"""Caches written row by row, without a preparation: for tests of what reads them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from components.dataset_cacher.workbench import OWN_TEMPLATE, Workbench
from tunewright.contracts.datasets import MANIFEST_FILE, DatasetManifest, FileRecord
from tunewright.contracts.files import json_text, write_json_atomically
from tunewright.contracts.spec import digest_of
from tunewright.dataset_cacher.preparation.packing import pack
from tunewright.dataset_cacher.preparation.shards import CachedRow, ShardWriter, write_packing
from tunewright.dataset_cacher.preparation.statistics import STATISTICS_FILE, RowColumns, statistics_of

MAX_LENGTH_TOKENS = 512

TextParts = Sequence[tuple[str, bool]]
"""A row as texts, each with whether it is trained."""


@dataclass(frozen=True)
class WrittenCache:
    """A cache and what was put into it."""

    path: Path
    manifest: DatasetManifest
    rows: tuple[CachedRow, ...]

    @property
    def digest(self) -> str:
        """Its name."""
        return self.manifest.digest

    def expected(self) -> list[dict[str, list[int]]]:
        """What an export must have, row by row."""
        return [{"input_ids": row.ids.tolist(), "labels": self._labels(row)} for row in self.rows]

    def _labels(self, row: CachedRow) -> list[int]:
        labels = [-100] * len(row.ids)
        for start, end in row.spans.reshape(-1, 2).tolist():
            labels[start:end] = row.ids[start:end].tolist()
        return labels


def rows_of(bench: Workbench, rows: Sequence[TextParts]) -> list[CachedRow]:
    """Rows of texts, each text tokenized on its own."""
    tokenizer = Tokenizer.from_file(str(bench.model / "tokenizer.json"))
    made = []
    for number, parts in enumerate(rows):
        ids: list[int] = []
        spans: list[int] = []
        for text, is_trained in parts:
            start = len(ids)
            ids += tokenizer.encode(text, add_special_tokens=False).ids
            spans += [start, len(ids)] if is_trained else []
        made.append(CachedRow(np.asarray(ids, np.uint16), np.asarray(spans, np.uint32), number % 2, number // 2))
    return made


def write_cache(bench: Workbench, rows: Sequence[CachedRow], id_type: str = "uint16") -> WrittenCache:
    """A cache of these rows below the bench's root."""
    key = {
        "rows": [[row.ids.tolist(), row.spans.tolist()] for row in rows],
        "max_length_tokens": MAX_LENGTH_TOKENS,
        "chat_template": {"name": "own", "source": OWN_TEMPLATE},
        "tokenizer": {"named_tokens": {"eos_token": "</s>", "pad_token": "<pad>"}, "other_tokens": ["<|im_start|>"]},
    }
    cache = bench.cache_root / digest_of(key)
    cache.mkdir(parents=True)
    writer = ShardWriter(cache, np.dtype(id_type))
    for row in rows:
        writer.append(row)
    shards = writer.finish()
    trained = [int(row.spans[1::2].sum()) - int(row.spans[::2].sum()) for row in rows]
    columns = RowColumns(
        lengths=np.asarray([len(row.ids) for row in rows], np.uint32),
        trained=np.asarray(trained, np.uint32),
        sources=np.asarray([row.source for row in rows], np.uint16),
        truncated=np.zeros(len(rows), np.bool_),
    )
    plan = pack(columns.lengths, MAX_LENGTH_TOKENS)
    statistics = statistics_of(columns, [{"no_trained_tokens": 1}, {}], len(plan), MAX_LENGTH_TOKENS, "marks")
    statistics["sources"] = [{"format": "messages", **source} for source in statistics["sources"]]
    (cache / STATISTICS_FILE).write_text(json_text(statistics))
    shutil.copyfile(bench.model / "tokenizer.json", cache / "tokenizer.json")
    manifest = DatasetManifest(
        format_version=1, digest=digest_of(key), key=key, id_type=id_type, vocabulary_size=340, eos_token_id=1,
        pad_token_id=2, rows=statistics["rows"], tokens=statistics["tokens"],
        trained_tokens=statistics["trained_tokens"], dropped=statistics["dropped"],
        sources=tuple(statistics["sources"]), shards=shards, packing=write_packing(cache, plan),
        statistics=FileRecord.of(cache, STATISTICS_FILE), tokenizer=FileRecord.of(cache, "tokenizer.json"),
    )  # fmt: skip
    write_json_atomically(cache / MANIFEST_FILE, manifest.to_document())
    return WrittenCache(cache, manifest, tuple(rows))
