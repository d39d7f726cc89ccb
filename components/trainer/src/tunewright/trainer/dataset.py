"""The prepared dataset as the trainer reads it: memory-mapped sequences, and the rows a step is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.errors import CacheCorrupted


@dataclass(frozen=True)
class TokenSequence:
    """One conversation."""

    ids: np.ndarray[Any, Any]
    """Token ids, shape (T,)."""

    spans: np.ndarray[Any, Any]
    """Half-open ranges of trained tokens: start, end, start, end, ..."""

    number: int = 0
    """Its number among all sequences of the run: that in the dataset, plus where the dataset's numbers begin."""

    def predicted(self) -> np.ndarray[Any, Any]:
        """Positions of the tokens that count in the loss. The first token of a sequence is predicted by nothing."""
        ranges = [np.arange(max(start, 1), end) for start, end in self.spans.reshape(-1, 2).tolist()]
        return np.concatenate([np.empty(0, np.int64), *ranges]).astype(np.int64)


class ListColumn:
    """A list column over all shards; element `i` is a view into the mapped file, without a copy."""

    def __init__(self, column: Any) -> None:
        self._parts = [(_flat(chunk.values), _flat(chunk.offsets)) for chunk in column.chunks]
        self._starts = np.cumsum([0, *(len(offsets) - 1 for _, offsets in self._parts)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> np.ndarray[Any, Any]:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        values, offsets = self._parts[part]
        local = index - int(self._starts[part])
        return values[offsets[local] : offsets[local + 1]]


def _flat(array: Any) -> np.ndarray[Any, Any]:
    flat: np.ndarray[Any, Any] = np.from_dlpack(array)  # a view; `to_numpy` would import pandas to make the same
    return flat


class TokenDataset:
    """A cache, opened. `len()` is the number of rows a step counts.

    Those are packed rows with packing, otherwise examples: conversations, or pairs of them.
    """

    def __init__(
        self,
        cache: Path,
        manifest: DatasetManifest,
        packing: bool,
        sequences_per_example: int = 1,
        first_number: int = 0,
    ) -> None:
        """`first_number` is what its sequences are counted from, so that two datasets of a run share no numbers."""
        self.first_number = first_number
        table = _open_all(cache, [shard.file for shard in manifest.shards])
        self._ids, self._spans = ListColumn(table["input_ids"]), ListColumn(table["spans"])
        self.num_sequences, self.sequences_per_example = len(self._ids), sequences_per_example
        self._packed = ListColumn(_open_all(cache, [manifest.packing.file])["rows"]) if packing else None
        if self.num_sequences != manifest.rows:
            raise CacheCorrupted(f"{cache}: holds {self.num_sequences} rows, its manifest says {manifest.rows}")

    def __len__(self) -> int:
        if self._packed is not None:
            return len(self._packed)
        return self.num_sequences // self.sequences_per_example

    def sequences_of(self, row: int) -> list[TokenSequence]:
        """The conversations in row `row`: those of one example, or those that share a packed row."""
        return [self.sequence(number) for number in self._members(row)]

    def sequence(self, number: int) -> TokenSequence:
        """Conversation `number` of the dataset, from 0."""
        return TokenSequence(self._ids[number], self._spans[number], self.first_number + number)

    def _members(self, row: int) -> Sequence[int]:
        if self._packed is not None:
            members: list[int] = self._packed[row].tolist()
            return members
        first = row * self.sequences_per_example
        return range(first, first + self.sequences_per_example)


def _open_all(cache: Path, files: Sequence[str]) -> Any:
    return pa.concat_tables([pa.ipc.open_file(pa.memory_map(str(cache / file))).read_all() for file in files])


@dataclass(frozen=True)
class DataOrder:
    """Which rows each optimizer step takes: a pure function of the seed and the step, so a resumed run needs no state.

    Epoch `e` is a permutation decided by (seed, e). The last step of an epoch takes the rows that are left.
    """

    num_rows: int
    """Rows that are trained on."""

    batch_size: int
    seed: int

    selected: np.ndarray[Any, Any] | None = field(default=None, compare=False)
    """Their numbers in the dataset, where some of its rows are held out. None: all rows are trained on."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the data."""
        return -(-self.num_rows // self.batch_size)

    def rows_of(self, step: int) -> list[int]:
        """The rows of optimizer step `step` (the first is 0), over all processes."""
        epoch, within = divmod(step, self.steps_per_epoch)
        order = np.random.Generator(np.random.PCG64([self.seed, epoch])).permutation(self.num_rows)
        places = order[within * self.batch_size : (within + 1) * self.batch_size]
        rows: list[int] = (places if self.selected is None else self.selected[places]).tolist()
        return rows
