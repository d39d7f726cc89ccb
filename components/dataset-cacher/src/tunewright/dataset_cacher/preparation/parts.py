"""Encoded parts of sources on disk: made by any process, each a file that is there once it is whole."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tunewright.contracts.errors import Problem
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
        """Keep a part. Its file gets its name once all of it is on the disk; what is in it, it tells at its end."""
        rows = encoded.rows
        columns = {"ids": rows.ids, "spans": rows.spans, "status": encoded.status, "lengths": rows.lengths,
                   "num_bounds": rows.num_bounds, "num_trained": rows.num_trained,
                   "is_truncated": rows.is_truncated}  # fmt: skip
        layout = [[name, values.dtype.name, len(values)] for name, values in columns.items()]
        document = json.dumps({"engine": engine, "columns": layout}).encode()
        path = self._path(task)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb", buffering=0) as stream:
            for values in columns.values():
                _write(stream, np.ascontiguousarray(values).data.cast("B"))
            _write(stream, memoryview(document + _LENGTH.pack(len(document))))
            os.fsync(stream.fileno())
        # A name that a power cut takes back is a part that is encoded again: the directory is not synced.
        os.replace(temporary, path)

    def has(self, task: PartTask, engines: Collection[str]) -> bool:
        """Whether the part was finished by one of `engines`."""
        try:
            with self._path(task).open("rb") as stream:
                return _read_document(stream)["engine"] in engines
        except FileNotFoundError:
            return False

    def load(self, task: PartTask) -> SavedPart:
        """The part, which must be there."""
        columns, stretches, offset = {}, {}, 0
        with self._path(task).open("rb") as stream:
            for name, kind, count in _read_document(stream)["columns"]:
                size = np.dtype(kind).itemsize * count
                if name in ("ids", "spans"):
                    stretches[name] = Stretch(offset, count)
                else:
                    stream.seek(offset)
                    columns[name] = np.frombuffer(stream.read(size), kind)
                offset += size
        return SavedPart(self._path(task), columns, stretches)

    def _path(self, task: PartTask) -> Path:
        return self.directory / f"{task.name}.rows"


_LENGTH = struct.Struct("<Q")
"""The last bytes of a part: how many before them tell what is in it."""


def _write(stream: io.FileIO, content: memoryview) -> None:
    """All of `content`: a write may take less than it is given."""
    while content:
        content = content[stream.write(content) :]


def _read_document(stream: IO[bytes]) -> dict[str, Any]:
    """What a part tells of itself."""
    end = stream.seek(-_LENGTH.size, os.SEEK_END)
    (length,) = _LENGTH.unpack(stream.read(_LENGTH.size))
    stream.seek(end - length)
    document: dict[str, Any] = json.loads(stream.read(length))
    return document


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
