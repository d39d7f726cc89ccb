"""Encoded parts to the files of a cache: rows in the cache's order, the packing plan, the statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.dataset_cacher.preparation.parts import (
    DROP_REASONS,
    FIRST_DROP,
    KEPT,
    NOT_TAKEN,
    PartStore,
    PartTask,
    RaggedFile,
)
from tunewright.dataset_cacher.preparation.selecting import Selection
from tunewright.dataset_cacher.preparation.shards import RowBatch, ShardWriter, batches_of
from tunewright.dataset_cacher.preparation.statistics import RowColumns
from tunewright.dataset_cacher.reading.sampling import shuffled
from tunewright.dataset_cacher.tokens.ragged import gather, starts_of


class EncodedSource:
    """All parts of a source: columns in memory, tokens and spans on disk.

    Columns have a place for each sequence that its rows may give, `sequences_per_row` of them for each row.
    """

    def __init__(
        self,
        selection: Selection,
        tasks: Sequence[PartTask],
        store: PartStore,
        id_type: np.dtype[Any],
        sequences_per_row: int = 1,
    ) -> None:
        parts = [store.load(task) for task in tasks]
        self.selection = selection
        self.sequences_per_row = sequences_per_row
        self.status = np.full(selection.num_rows, NOT_TAKEN, dtype=np.uint8)
        for task, part in zip(tasks, parts, strict=True):
            self.status[task.first_row : task.first_row + task.part.num_rows] = part.columns["status"]
        is_kept = np.repeat(self.status == KEPT, sequences_per_row)
        column = {name: _spread([part.columns[name] for part in parts], is_kept) for name in _COLUMNS}
        self.lengths, self.trained, self.truncated = (column[name] for name in _COLUMNS[:3])
        self._num_bounds = column["num_bounds"]
        self._first_id, self._first_bound = starts_of(self.lengths), starts_of(self._num_bounds)
        self._ids = RaggedFile(parts, "ids", id_type)
        self._spans = RaggedFile(parts, "spans", np.dtype(np.uint32))

    def read(self, places: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.uint32], NDArray[np.uint32]]:
        """Tokens of the sequences at `places` one behind the other, their spans, and how many numbers each has."""
        num_bounds = self._num_bounds[places]
        return (
            self._ids.read(self._first_id[places], self.lengths[places]),
            self._spans.read(self._first_bound[places], num_bounds),
            num_bounds,
        )

    def close(self) -> None:
        """Close the files."""
        self._ids.close()
        self._spans.close()


_COLUMNS = ("lengths", "num_trained", "is_truncated", "num_bounds")


def _spread(kept: Sequence[NDArray[Any]], is_kept: NDArray[np.bool_]) -> NDArray[Any]:
    """A column with a value for each place of the source: 0 for those that are not kept."""
    values = np.concatenate(kept)
    if len(values) == len(is_kept):
        return values
    column = np.zeros(len(is_kept), dtype=values.dtype)
    column[is_kept] = values
    return column


@dataclass(frozen=True)
class CacheOrder:
    """Every sequence of the cache, in its order: those of one row beside each other."""

    sources: NDArray[np.uint16]
    rows: NDArray[np.uint32]
    """Index within its source of the row that gave it."""

    dropped: tuple[Counter[str], ...]
    """For each source, how many rows were left out for which reason. Repeats count as often as they were taken."""

    sequences_per_row: int = 1

    @classmethod
    def of(cls, sources: Sequence[EncodedSource], shuffle_seed: int | None) -> CacheOrder:
        """The mix in its order: source after source, or its rows shuffled. What was dropped is not in it."""
        sequences_per_row = sources[0].sequences_per_row
        orders = [one.selection.order for one in sources]
        numbers = np.repeat(np.arange(len(sources), dtype=np.uint16), [len(order) for order in orders])
        rows = np.concatenate(orders).astype(np.uint32)
        statuses = np.concatenate([one.status[order] for one, order in zip(sources, orders, strict=True)])
        dropped = tuple(_dropped(statuses[numbers == number]) for number in range(len(sources)))
        is_kept = statuses == KEPT
        if shuffle_seed is None:
            numbers, rows = numbers[is_kept], rows[is_kept]
        else:
            order = shuffled(len(rows), shuffle_seed)
            order = order[is_kept[order]]
            numbers, rows = numbers[order], rows[order]
        if sequences_per_row > 1:
            numbers, rows = numbers.repeat(sequences_per_row), rows.repeat(sequences_per_row)
        return cls(numbers, rows, dropped, sequences_per_row)

    def places(self, start: int, end: int) -> NDArray[Any]:
        """Where sequences `start` to `end` are in the columns of their sources."""
        if self.sequences_per_row == 1:
            return self.rows[start:end]
        sides = np.arange(start, end) % self.sequences_per_row
        return self.rows[start:end].astype(np.int64) * self.sequences_per_row + sides

    def columns(self, sources: Sequence[EncodedSource]) -> RowColumns:
        """What is counted of the sequences."""
        places = self.places(0, len(self.rows))
        lengths = np.empty(len(self.rows), dtype=np.uint32)
        trained = np.empty(len(self.rows), dtype=np.uint32)
        truncated = np.empty(len(self.rows), dtype=np.bool_)
        for number, source in enumerate(sources):
            chosen = self.sources == number
            mine = places[chosen]
            lengths[chosen], trained[chosen] = source.lengths[mine], source.trained[mine]
            truncated[chosen] = source.truncated[mine]
        return RowColumns(lengths, trained, self.sources, truncated)


def _dropped(statuses: NDArray[np.uint8]) -> Counter[str]:
    counts = np.bincount(statuses, minlength=FIRST_DROP + len(DROP_REASONS))[FIRST_DROP:]
    return Counter({reason: int(count) for reason, count in zip(DROP_REASONS, counts, strict=True) if count})


def write_shards(
    writer: ShardWriter, sources: Sequence[EncodedSource], order: CacheOrder, lengths: NDArray[np.uint32]
) -> None:
    """All sequences in their order, a record batch in memory at a time. Those of one row are in one batch."""
    per_row = order.sequences_per_row
    for first, last in batches_of(lengths if per_row == 1 else lengths.reshape(-1, per_row).sum(axis=1)):
        start, end = first * per_row, last * per_row
        numbers, places = order.sources[start:end], order.places(start, end).astype(np.int64)
        ids, spans, num_bounds = _read_mixed(sources, numbers, places, lengths[start:end])
        writer.write(RowBatch(ids, lengths[start:end], spans, num_bounds, numbers, order.rows[start:end]))


def _read_mixed(
    sources: Sequence[EncodedSource],
    numbers: NDArray[np.uint16],
    places: NDArray[np.int64],
    lengths: NDArray[np.uint32],
) -> tuple[NDArray[Any], NDArray[np.uint32], NDArray[np.uint32]]:
    """Sequences of any sources: each source is read once, then all are put into their order."""
    by_source = np.argsort(numbers, kind="stable")
    there = np.flatnonzero(np.bincount(numbers)).tolist()
    read = [sources[number].read(places[by_source[numbers[by_source] == number]]) for number in there]
    if len(read) == 1:
        only: tuple[NDArray[Any], NDArray[np.uint32], NDArray[np.uint32]] = read[0]
        return only
    ids, spans, num_bounds = (np.concatenate(column) for column in zip(*read, strict=True))
    back = np.argsort(by_source)
    num_bounds_in_order = num_bounds[back]
    return (
        gather(ids, starts_of(lengths[by_source])[back], lengths),
        gather(spans, starts_of(num_bounds)[back], num_bounds_in_order),
        num_bounds_in_order,
    )
