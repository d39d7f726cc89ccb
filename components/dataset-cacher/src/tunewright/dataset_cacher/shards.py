"""The Arrow files of a cache: token shards and the packing plan, written and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
from numpy.typing import NDArray

from tunewright.contracts.datasets import DatasetManifest, FileRecord, ShardRecord

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


@dataclass
class _Batch:
    """Rows that will be one record batch."""

    rows: list[CachedRow] = field(default_factory=list)
    tokens: int = 0


class ShardWriter:
    """Writes `tokens-00000.arrow`, `tokens-00001.arrow`, ... Close it with `finish`."""

    def __init__(self, directory: Path, id_type: np.dtype[Any]) -> None:
        self._directory = directory
        self._schema = _shard_schema(id_type)
        self._batch = _Batch()
        self._sink: Any = None
        self._shards: list[ShardRecord] = []
        self._rows = self._tokens = self._trained = 0

    def append(self, row: CachedRow) -> None:
        """Add one row."""
        self._batch.rows.append(row)
        self._batch.tokens += len(row.ids)
        if self._batch.tokens >= BATCH_TOKENS:
            self._flush()
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
        rows = self._batch.rows
        if not rows:
            return
        if self._sink is None:
            self._sink = arrow.ipc.new_file(str(self._directory / self._file), self._schema)
        self._sink.write_batch(_record_batch(rows, self._schema))
        self._rows += len(rows)
        self._tokens += self._batch.tokens
        self._trained += sum(int(row.spans[1::2].sum()) - int(row.spans[::2].sum()) for row in rows)
        self._batch = _Batch()

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


def write_packing(directory: Path, packed: Sequence[Sequence[int]]) -> FileRecord:
    """Write the packing plan."""
    schema = arrow.schema([("rows", arrow.list_(arrow.uint32()))])
    with arrow.ipc.new_file(str(directory / PACKING_FILE), schema) as sink:
        sink.write_batch(arrow.record_batch([_list_array([np.asarray(one) for one in packed], arrow.uint32())], schema))
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


def _record_batch(rows: Sequence[CachedRow], schema: Any) -> Any:
    columns = [
        _list_array([row.ids for row in rows], schema.field("input_ids").type.value_type),
        _list_array([row.spans for row in rows], arrow.uint32()),
        arrow.array([row.source for row in rows], arrow.uint16()),
        arrow.array([row.row for row in rows], arrow.uint32()),
    ]
    return arrow.record_batch(columns, schema)


def _list_array(lists: Sequence[NDArray[Any]], value_type: Any) -> Any:
    offsets = np.zeros(len(lists) + 1, dtype=np.int32)
    np.cumsum([len(one) for one in lists], out=offsets[1:])
    values = np.concatenate(lists) if lists else np.empty(0)
    return arrow.ListArray.from_arrays(offsets, arrow.array(values.astype(value_type.to_pandas_dtype()), value_type))
