"""What one read of a file of rows tells: its digest, its rows, and the parts that can be read on their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tunewright.contracts.dataset_plugins import Row

PART_BYTES = 8 << 20
"""What a part is cut at: the size of what a reader holds in memory. Of content only, so that parts never differ."""


class BadRow(ValueError):
    """A row that is no row: `str` says why. The rows after it can still be read."""


NumberedRow = tuple[int, Row | BadRow]
"""A row's number as messages name it, and the row or why it is none."""

BLOCK_ROWS = 256
"""Rows that are handed on together, where it is their number that bounds a block."""


@dataclass(frozen=True)
class RowBlock:
    """Rows that follow each other in a file."""

    numbers: Sequence[int]
    rows: Sequence[Row | BadRow]

    def __iter__(self) -> Iterator[NumberedRow]:
        return zip(self.numbers, self.rows, strict=True)


def blocks_of(rows: Iterator[NumberedRow]) -> Iterator[RowBlock]:
    """The same rows, some at a time."""
    while block := list(islice(rows, BLOCK_ROWS)):
        yield RowBlock([number for number, _ in block], [row for _, row in block])


@dataclass(frozen=True)
class Part:
    """Rows of a file that can be read without those before them."""

    first_row: int
    """Index of its first row in the file."""

    num_rows: int

    start: int
    """Where to start reading: a byte, a row group, a record batch, by the file's kind."""

    end: int
    """Where to stop, in the same unit. Start and end are 0 for the whole of a file that is read from its start."""

    first_line: int = 1
    """The line that `start` is in, where rows are named by lines."""


@dataclass(frozen=True)
class Scan:
    """What one read of a file tells."""

    sha256: str
    """Of its bytes as they lie there, 64 hexadecimal digits."""

    num_rows: int
    """Rows that `read_part` gives over all parts, bad ones included."""

    parts: tuple[Part, ...]
    """In order, without those that have no rows. They depend on the content only."""


def whole_file(num_rows: int) -> tuple[Part, ...]:
    """The one part of a file that is read from its start."""
    return (Part(0, num_rows, 0, 0),) if num_rows else ()


def joined_parts(sizes: list[tuple[int, int]]) -> tuple[Part, ...]:
    """Parts of neighbours, each closed when it has reached PART_BYTES. `sizes`: rows and bytes of each unit."""
    parts, row, start, rows, size = [], 0, 0, 0, 0
    for index, (num_rows, num_bytes) in enumerate(sizes):
        rows, size = rows + num_rows, size + num_bytes
        if size >= PART_BYTES or index == len(sizes) - 1:
            parts.append(Part(row, rows, start, index + 1))
            row, start, rows, size = row + rows, index + 1, 0, 0
    return tuple(part for part in parts if part.num_rows)


def checked_row(row: Any) -> Row | BadRow:
    """A parsed value as a row."""
    if isinstance(row, dict):
        return row
    import orjson

    return BadRow(f"must be an object, got {orjson.dumps(row).decode()[:60]}")
