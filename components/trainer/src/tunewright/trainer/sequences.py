"""The prepared dataset as the trainer sees it: memory-mapped token ids and which of them count in the loss."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tunewright.contracts.datasets import DatasetManifest


@dataclass(frozen=True)
class Sequence:
    """One conversation. Shape legend: L = its length in tokens."""

    ids_L: NDArray[np.int64]
    is_trained_L: NDArray[np.bool_]


@dataclass(frozen=True)
class _Shard:
    first_row: int
    ids: NDArray[np.unsignedinteger]
    id_offsets: NDArray[np.integer]
    spans: NDArray[np.unsignedinteger]
    span_offsets: NDArray[np.integer]


class CachedSequences:
    """The rows of a cache, by their number. The files stay on disk; a row is read when it is asked for."""

    def __init__(self, cache: Path, manifest: DatasetManifest) -> None:
        self._shards: list[_Shard] = []
        first_row = 0
        for record in manifest.shards:
            for table in _record_batches(cache / record.file):
                self._shards.append(_shard(table, first_row))
                first_row += table.num_rows
        self.num_rows = first_row
        self._first_rows = np.array([shard.first_row for shard in self._shards])
        self.tokens_per_row = np.concatenate([np.diff(shard.id_offsets) for shard in self._shards]).astype(np.int64)
        self.targets_per_row = np.concatenate([_targets(shard) for shard in self._shards]).astype(np.int64)
        """Tokens of each row that a loss is taken of: the trained ones, but for a first token, which nothing predicts."""

    def __getitem__(self, row: int) -> Sequence:
        shard = self._shards[int(np.searchsorted(self._first_rows, row, side="right")) - 1]
        index = row - shard.first_row
        ids_L = shard.ids[shard.id_offsets[index] : shard.id_offsets[index + 1]].astype(np.int64)
        is_trained_L = np.zeros(len(ids_L), dtype=np.bool_)
        spans = shard.spans[shard.span_offsets[index] : shard.span_offsets[index + 1]].reshape(-1, 2)
        for start, end in spans.tolist():
            is_trained_L[start:end] = True
        return Sequence(ids_L, is_trained_L)


def read_packing(cache: Path, manifest: DatasetManifest) -> list[list[int]]:
    """The packing plan: for each packed row the rows of the cache in it."""
    rows: list[list[int]] = []
    for table in _record_batches(cache / manifest.packing.file):
        rows.extend(table.column("rows").to_pylist())
    return rows


def _record_batches(path: Path) -> list[pa.RecordBatch]:
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    return [batch for batch in map(reader.get_batch, range(reader.num_record_batches)) if batch.num_rows]


def _shard(batch: pa.RecordBatch, first_row: int) -> _Shard:
    ids, spans = batch.column("input_ids"), batch.column("spans")
    return _Shard(
        first_row, ids.values.to_numpy(), ids.offsets.to_numpy(), spans.values.to_numpy(), spans.offsets.to_numpy()
    )


def _targets(shard: _Shard) -> NDArray[np.int64]:
    pairs = shard.spans.astype(np.int64)
    sign = np.where(np.arange(len(pairs)) % 2, 1, -1)  # starts count down, ends count up: lengths in sum
    sums = np.concatenate([[0], np.cumsum(pairs * sign)])
    trained = sums[shard.span_offsets[1:]] - sums[shard.span_offsets[:-1]]
    has_span = np.diff(shard.span_offsets) > 0
    first_starts = pairs[np.minimum(shard.span_offsets[:-1], max(len(pairs) - 1, 0))] if len(pairs) else np.zeros(0)
    starts_at_zero = has_span & (first_starts == 0) if len(pairs) else has_span
    return np.asarray(trained - starts_at_zero, dtype=np.int64)
