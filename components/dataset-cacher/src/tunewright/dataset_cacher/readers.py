"""Rows out of files, one after the other, each with the place where it stands."""

from __future__ import annotations

import csv
import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import orjson

from tunewright.contracts.dataset_plugins import Row
from tunewright.contracts.errors import InvalidDataset
from tunewright.dataset_cacher.sources import SourceFile

PARQUET_BATCH_ROWS = 1024


class BadRow(ValueError):
    """A row that is no row: `str` says why. The rows after it can still be read."""


ReadRow = tuple[str, Row | BadRow]
"""Where the row stands (`train.jsonl:7`), and the row or why it is none."""


def read_rows(file: SourceFile) -> Iterator[ReadRow]:
    """Every row of `file`, in order. Raises InvalidDataset where the file as a whole cannot be read."""
    with _naming(file):
        yield from _READERS[file.kind](file)


def count_rows(file: SourceFile) -> int:
    """How many rows `read_rows` gives, bad ones included."""
    if file.kind == "jsonl":
        with _naming(file), _open_lines(file.path) as lines:
            return sum(1 for line in lines if not line.isspace())
    if file.kind == "parquet":
        with _parquet_file(file) as table:
            return int(table.metadata.num_rows)
    return sum(1 for _ in read_rows(file))


@contextmanager
def _naming(file: SourceFile) -> Iterator[None]:
    """What goes wrong with the file as a whole, under its name."""
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise InvalidDataset(f"{file.shown}: cannot be read as {file.kind}: {error}") from None


def _read_jsonl(file: SourceFile) -> Iterator[ReadRow]:
    with _open_lines(file.path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.isspace():
                yield f"{file.shown}:{number}", _parsed_row(line)


def _open_lines(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]  # a GzipFile is one


def _parsed_row(line: bytes) -> Row | BadRow:
    try:
        return _checked_row(orjson.loads(line))
    except orjson.JSONDecodeError as error:
        return BadRow(f"is not JSON: {error}")


def _checked_row(row: Any) -> Row | BadRow:
    return row if isinstance(row, dict) else BadRow(f"must be an object, got {orjson.dumps(row).decode()[:60]}")


def _read_json(file: SourceFile) -> Iterator[ReadRow]:
    try:
        document = orjson.loads(file.path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise InvalidDataset(f"{file.shown}: is not JSON: {error}") from None
    if isinstance(document, dict):
        lists = [value for value in document.values() if isinstance(value, list)]
        if len(lists) != 1:
            found = f"an object with {len(lists)} lists"
            raise InvalidDataset(f"{file.shown}: must be a list of rows, or an object with one list, got {found}")
        document = lists[0]
    if not isinstance(document, list):
        raise InvalidDataset(f"{file.shown}: must be a list of rows, or an object with one list")
    for number, row in enumerate(document, start=1):
        yield f"{file.shown}: row {number}", _checked_row(row)


def _read_csv(file: SourceFile) -> Iterator[ReadRow]:
    csv.field_size_limit(sys.maxsize)
    with file.path.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text, strict=True)
        line = 2
        for row in reader:
            place, line = f"{file.shown}:{line}", reader.line_num + 1
            extra: Any = None  # the key under which DictReader keeps the cells that have no column
            if extra in row:
                yield place, BadRow(f"has more cells than the header has columns ({len(reader.fieldnames or ())})")
            else:
                yield place, row


def _read_parquet(file: SourceFile) -> Iterator[ReadRow]:
    number = 0
    with _parquet_file(file) as table:
        for batch in table.iter_batches(batch_size=PARQUET_BATCH_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield f"{file.shown}: row {number}", row


@contextmanager
def _parquet_file(file: SourceFile) -> Iterator[Any]:
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file.path) as table:
            yield table
    except arrow.ArrowException as error:
        raise InvalidDataset(f"{file.shown}: cannot be read as parquet: {str(error).splitlines()[0]}") from None


_READERS: dict[str, Callable[[SourceFile], Iterator[ReadRow]]] = {
    "jsonl": _read_jsonl,
    "json": _read_json,
    "csv": _read_csv,
    "parquet": _read_parquet,
}
