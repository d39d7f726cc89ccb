"""Encoded parts of sources on disk: made by any process, each vouched for by a second file, read in any order."""

from __future__ import annotations

import errno
import json
import os
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.contracts.errors import Problem
from tunewright.contracts.files import write_bytes_atomically
from tunewright.dataset_cacher.preparation.drops import EQUAL_ANSWERS, NO_TRAINED_TOKENS, TEMPLATE_UNMASKABLE
from tunewright.dataset_cacher.reading.scans import Part
from tunewright.dataset_cacher.tokens.encoding import EncodedRows
from tunewright.dataset_cacher.tokens.ragged import starts_of

NOT_TAKEN, KEPT, FIRST_DROP = 0, 1, 2
"""What became of a row; from FIRST_DROP on, the reason for which it was left out."""

DROP_REASONS = (NO_TRAINED_TOKENS, TEMPLATE_UNMASKABLE, EQUAL_ANSWERS)
"""A part keeps the place of a row's reason in this list."""

OPEN_FILES = 64


@dataclass(frozen=True)
class PartTask:
    """One part of a source to encode."""

    source: int
    """Index into the mix."""

    file: int
    """Index of the file in its source."""

    number: int
    """Number of the part in its source."""

    part: Part
    first_row: int
    """Index of its first row in the source."""

    is_wanted: NDArray[np.bool_] | None
    """Shape (rows of the part,): which rows are taken. None for all."""

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"part-{self.source:05d}-{self.number:07d}"

    @property
    def num_wanted(self) -> int:
        """Rows to encode."""
        return self.part.num_rows if self.is_wanted is None else int(np.count_nonzero(self.is_wanted))


@dataclass(frozen=True)
class EncodedPart:
    """What became of a part's rows."""

    status: NDArray[np.uint8]
    """Shape (rows of the part,)."""

    rows: EncodedRows
    """The conversations of the kept ones, in order: of a pair both."""

    num_problems: int = 0
    """Rows that cannot be used. Where there are any, nothing is kept."""

    first_problems: tuple[Problem, ...] = ()

    @property
    def num_tokens(self) -> int:
        """Tokens in it."""
        return len(self.rows.ids)


@dataclass(frozen=True)
class Stretch:
    """Where values lie in a part's file."""

    offset_bytes: int
    num_values: int


@dataclass(frozen=True)
class SavedPart:
    """A part on disk, and what is held of it in memory."""

    path: Path
    columns: dict[str, NDArray[Any]]
    """`status` has a value for each row of the part, the others one for each conversation of a kept row."""

    stretches: dict[str, Stretch]
    """Where the `ids` and `spans` of all rows are."""


class PartStore:
    """The work directory: finished parts, which a killed preparation leaves to the next."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def save(self, task: PartTask, encoded: EncodedPart, engine: str) -> None:
        """Keep a part. It counts once its second file, which vouches for the first, is there."""
        rows = encoded.rows
        columns = {"ids": rows.ids, "spans": rows.spans, "status": encoded.status, "lengths": rows.lengths,
                   "num_bounds": rows.num_bounds, "num_trained": rows.num_trained,
                   "is_truncated": rows.is_truncated}  # fmt: skip
        data = self._data(task)
        temporary = data.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as stream:
            for values in columns.values():
                stream.write(np.ascontiguousarray(values).data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, data)
        layout = [[name, values.dtype.name, len(values)] for name, values in columns.items()]
        document = {"engine": engine, "columns": layout}
        write_bytes_atomically(self._voucher(task), json.dumps(document).encode())

    def has(self, task: PartTask, engines: Collection[str]) -> bool:
        """Whether the part was finished by one of `engines`."""
        document = self._read_voucher(task)
        return document is not None and document["engine"] in engines and self._data(task).is_file()

    def load(self, task: PartTask) -> SavedPart:
        """The part, which must be there."""
        document = self._read_voucher(task)
        assert document is not None, f"{task.name} was saved"
        columns, stretches, offset = {}, {}, 0
        with self._data(task).open("rb") as stream:
            for name, kind, count in document["columns"]:
                size = np.dtype(kind).itemsize * count
                if name in ("ids", "spans"):
                    stretches[name] = Stretch(offset, count)
                else:
                    stream.seek(offset)
                    columns[name] = np.frombuffer(stream.read(size), kind)
                offset += size
        return SavedPart(self._data(task), columns, stretches)

    def _read_voucher(self, task: PartTask) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = json.loads(self._voucher(task).read_bytes())
        except FileNotFoundError:
            return None
        return document

    def _data(self, task: PartTask) -> Path:
        return self.directory / f"{task.name}.data"

    def _voucher(self, task: PartTask) -> Path:
        return self.directory / f"{task.name}.json"


class RaggedFile:
    """Lists of numbers in the files of many parts, as if they lay one behind the other in one array."""

    def __init__(self, parts: Sequence[SavedPart], name: str, kind: np.dtype[Any]) -> None:
        self._paths = [part.path for part in parts]
        self._offsets = [part.stretches[name].offset_bytes for part in parts]
        self._firsts = starts_of(np.asarray([part.stretches[name].num_values for part in parts], dtype=np.int64))
        self._kind = kind
        self._open: OrderedDict[int, int] = OrderedDict()

    def read(self, starts: NDArray[np.int64], lengths: NDArray[Any]) -> NDArray[Any]:
        """The lists at `starts`, one behind the other in the order given. None of them is in two parts."""
        lengths = lengths.astype(np.int64)
        values = np.empty(int(lengths.sum()), self._kind)
        if not len(starts):
            return values
        parts = np.searchsorted(self._firsts, starts, side="right") - 1
        # What lies beside each other is read at once: in the usual order, all of it.
        begins = np.ones(len(starts), dtype=np.bool_)
        begins[1:] = (starts[1:] != starts[:-1] + lengths[:-1]) | (parts[1:] != parts[:-1])
        heads = np.flatnonzero(begins)
        sizes = np.add.reduceat(lengths, heads)
        offsets = starts[heads] - self._firsts[parts[heads]]
        place = 0
        for part, offset, size in zip(parts[heads].tolist(), offsets.tolist(), sizes.tolist(), strict=True):
            self._fill(values[place : place + size], part, offset)
            place += size
        return values

    def close(self) -> None:
        """Close the files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _fill(self, values: NDArray[Any], part: int, offset: int) -> None:
        # Not a memory map: its pages would count as this process's memory, all of the parts in the end.
        view, position = memoryview(values.data).cast("B"), self._offsets[part] + offset * self._kind.itemsize
        while view:
            count = os.preadv(self._descriptor(part), [view], position)
            if not count:
                raise OSError(errno.EIO, "ends too early", str(self._paths[part]))
            view, position = view[count:], position + count

    def _descriptor(self, part: int) -> int:
        if part in self._open:
            self._open.move_to_end(part)
        else:
            if len(self._open) >= OPEN_FILES:
                os.close(self._open.popitem(last=False)[1])
            self._open[part] = os.open(self._paths[part], os.O_RDONLY | os.O_CLOEXEC)
        return self._open[part]
