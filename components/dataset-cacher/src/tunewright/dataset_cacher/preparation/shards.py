"""The Arrow files of a cache: token shards and the packing plan, written and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
from numpy.typing import NDArray

from tunewright.contracts.datasets import DatasetManifest, FileRecord, ShardRecord
from tunewright.contracts.errors import InvalidDataset
from tunewright.dataset_cacher.preparation.packing import PackingPlan

SHARD_TOKENS = 1 << 26
"""Tokens after which a shard ends: 128 MiB of 16-bit ids."""

BATCH_TOKENS = 1 << 20
"""Tokens after which a record batch ends: what is held in memory."""

PACKING_FILE = "packing.arrow"


@dataclass(frozen=True)
class CachedRow:
    """One conversation of a cache."""

    ids: NDArray[Any]
    spans: NDArray[Any]
    source: int
    """Index into the mix."""

    row: int
    """Index within the source."""


@dataclass(frozen=True)
class RowBatch:
    """Rows that are written together."""

    ids: NDArray[Any]
    """Tokens of all rows, one row behind the other."""

    lengths: NDArray[np.uint32]
    """Shape (rows,): tokens of each."""

    spans: NDArray[np.uint32]
    num_bounds: NDArray[np.uint32]
    """Shape (rows,): how many of `spans` are each row's."""

    sources: NDArray[np.uint16]
    rows: NDArray[np.uint32]

    @classmethod
    def of(cls, rows: Sequence[CachedRow]) -> RowBatch:
        """A batch of at least one row."""
        return cls(
            ids=np.concatenate([row.ids for row in rows]),
            lengths=np.asarray([len(row.ids) for row in rows], dtype=np.uint32),
            spans=np.concatenate([row.spans for row in rows]).astype(np.uint32),
            num_bounds=np.asarray([len(row.spans) for row in rows], dtype=np.uint32),
            sources=np.asarray([row.source for row in rows], dtype=np.uint16),
            rows=np.asarray([row.row for row in rows], dtype=np.uint32),
        )


def batches_of(lengths: NDArray[np.uint32]) -> Iterator[tuple[int, int]]:
    """Start and end of the rows of each record batch: it ends with the row that fills it."""
    ends = np.cumsum(lengths, dtype=np.int64)
    start = tokens = 0
    while start < len(ends):
        end = min(int(np.searchsorted(ends, tokens + BATCH_TOKENS)) + 1, len(ends))
        yield start, end
        start, tokens = end, int(ends[end - 1])


class ShardWriter:
    """Writes `tokens-00000.arrow`, `tokens-00001.arrow`, ... Close it with `finish`."""

    def __init__(self, directory: Path, id_type: np.dtype[Any]) -> None:
        self._directory = directory
        self._schema = _shard_schema(id_type)
        self._appended: list[CachedRow] = []
        self._appended_tokens = 0
        self._sink: Any = None
        self._shards: list[ShardRecord] = []
        self._rows = self._tokens = self._trained = 0

    def append(self, row: CachedRow) -> None:
        """Add one row; it is written with others."""
        self._appended.append(row)
        self._appended_tokens += len(row.ids)
        if self._appended_tokens >= BATCH_TOKENS:
            self._flush()

    def write(self, batch: RowBatch) -> None:
        """Write a record batch, and end the shard where that fills it."""
        if self._sink is None:
            self._sink = arrow.ipc.new_file(str(self._directory / self._file), self._schema)
        self._sink.write_batch(_record_batch(batch, self._schema))
        self._rows += len(batch.lengths)
        self._tokens += len(batch.ids)
        self._trained += int(batch.spans[1::2].sum(dtype=np.int64) - batch.spans[::2].sum(dtype=np.int64))
        if self._tokens >= SHARD_TOKENS:
            self._close()

    def finish(self) -> tuple[ShardRecord, ...]:
        """Write what is left. Gives the records of all shards."""
        self._flush()
        self._close()
        return tuple(self._shards)

    def abort(self) -> None:
        """Close the open file after a failure: the directory goes away with it."""
        if self._sink is not None:
            self._sink.close()

    @property
    def _file(self) -> str:
        return f"tokens-{len(self._shards):05d}.arrow"

    def _flush(self) -> None:
        if self._appended:
            batch = RowBatch.of(self._appended)
            self._appended, self._appended_tokens = [], 0
            self.write(batch)

    def _close(self) -> None:
        if self._sink is None:
            return
        self._sink.close()
        record = FileRecord.of(self._directory, self._file)
        self._shards.append(
            ShardRecord(**record.model_dump(), rows=self._rows, tokens=self._tokens, trained_tokens=self._trained)
        )
        self._sink = None
        self._rows = self._tokens = self._trained = 0


MOST_ROWS = 2**31 - 1
"""What the offsets of Arrow's lists can count: conversations that one packing plan holds."""


def write_packing(directory: Path, plan: PackingPlan) -> FileRecord:
    """Write the packing plan. Raises InvalidDataset for more conversations than it can hold."""
    if len(plan.rows) > MOST_ROWS:
        words = f"dataset: {len(plan.rows):,} conversations are left; a cache holds at most {MOST_ROWS:,}"
        raise InvalidDataset(words, "prepare the mix in several experiments")
    schema = arrow.schema([("rows", arrow.list_(arrow.uint32()))])
    with arrow.ipc.new_file(str(directory / PACKING_FILE), schema) as sink:
        sink.write_batch(arrow.record_batch([_list_array(plan.rows, np.diff(plan.ends, prepend=0))], schema))
    return FileRecord.of(directory, PACKING_FILE)


def read_shards(cache: Path, manifest: DatasetManifest) -> Iterator[CachedRow]:
    """Every row of the cache, in order, memory-mapped."""
    for shard in manifest.shards:
        yield from _read_shard(cache / shard.file, 0)


def read_row(cache: Path, manifest: DatasetManifest, number: int) -> CachedRow:
    """Row `number` of the cache, which must have it."""
    for shard in manifest.shards:
        if number < shard.rows:
            return next(_read_shard(cache / shard.file, number))
        number -= shard.rows
    raise IndexError(number)


def _read_shard(path: Path, first: int) -> Iterator[CachedRow]:
    with arrow.memory_map(str(path)) as source:
        reader = arrow.ipc.open_file(source)
        for index in range(reader.num_record_batches):
            batch = reader.get_batch(index)
            for row in range(min(first, batch.num_rows), batch.num_rows):
                yield CachedRow(
                    ids=batch["input_ids"][row].values.to_numpy(),
                    spans=batch["spans"][row].values.to_numpy(),
                    source=batch["source"][row].as_py(),
                    row=batch["row"][row].as_py(),
                )
            first = max(0, first - batch.num_rows)


def _shard_schema(id_type: np.dtype[Any]) -> Any:
    ids = arrow.list_(arrow.from_numpy_dtype(id_type))
    spans = arrow.list_(arrow.uint32())
    return arrow.schema([("input_ids", ids), ("spans", spans), ("source", arrow.uint16()), ("row", arrow.uint32())])


def _record_batch(batch: RowBatch, schema: Any) -> Any:
    lists = [_list_array(batch.ids, batch.lengths), _list_array(batch.spans, batch.num_bounds)]
    return arrow.record_batch([*lists, _array(batch.sources), _array(batch.rows)], schema)


def _list_array(values: NDArray[Any], lengths: NDArray[Any]) -> Any:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return arrow.ListArray.from_arrays(_array(offsets), _array(values))


def _array(values: NDArray[Any]) -> Any:
    """The same numbers, not copied. `arrow.array` would import pandas where it is installed, to ask about its types."""
    buffer = arrow.py_buffer(np.ascontiguousarray(values))
    return arrow.Array.from_buffers(arrow.from_numpy_dtype(values.dtype), len(values), [None, buffer])
