"""Rows out of files: one read tells a file's digest, its number of rows and its parts; each part is read on its own."""

from __future__ import annotations

import csv
import io
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import IO, Any

from tunewright.contracts.errors import InvalidDataset
from tunewright.dataset_cacher.reading.lines import count_line_rows, read_lines, read_lines_between, scan_lines
from tunewright.dataset_cacher.reading.opening import HashedBytes, decompressed, open_bytes, open_content
from tunewright.dataset_cacher.reading.scans import (
    BadRow,
    NumberedRow,
    Part,
    RowBlock,
    Scan,
    blocks_of,
    checked_row,
    whole_file,
)
from tunewright.dataset_cacher.reading.sources import SourceFile
from tunewright.dataset_cacher.reading.tables import read_table, scan_table

__all__ = ["BadRow", "NumberedRow", "Part", "RowBlock", "Scan", "has_quick_scan", "naming", "place_of", "read_blocks",
           "read_part", "scan_file"]  # fmt: skip

TABLES = ("parquet", "arrow")
NAMED_BY_LINES = ("jsonl", "csv")


def scan_file(file: SourceFile) -> Scan:
    """Digest, number of rows and parts.

    Raises InvalidDataset where the file as a whole cannot be read, Unavailable where its store does not answer.
    """
    with naming(file):
        if file.kind in TABLES:
            return scan_table(file)
        return scan_lines(file) if has_quick_scan(file) else _scan_from_start(file)


def read_part(file: SourceFile, part: Part) -> Iterator[NumberedRow]:
    """The rows of a part, in order. Raises what `scan_file` does, where the file cannot be read any more."""
    return chain.from_iterable(read_blocks(file, part))


def read_blocks(file: SourceFile, part: Part) -> Iterator[RowBlock]:
    """The same rows, some at a time."""
    with naming(file):
        if file.kind in TABLES:
            yield from blocks_of(read_table(file, part))
        elif has_quick_scan(file):
            yield from read_lines_between(file, part)
        else:
            with open_content(file) as content:
                yield from _READERS[file.kind](content, file)


def place_of(file: SourceFile, number: int) -> str:
    """Where a row stands, for messages: `train.jsonl:7`, `train.parquet: row 7`."""
    return f"{file.shown}:{number}" if file.kind in NAMED_BY_LINES else f"{file.shown}: row {number}"


def has_quick_scan(file: SourceFile) -> bool:
    """Whether a scan takes hardly longer than a digest: no row has to be read for it."""
    return file.kind in TABLES or (file.kind == "jsonl" and not file.compression)


@contextmanager
def naming(file: SourceFile) -> Iterator[None]:
    """What goes wrong with the file as a whole, under its name."""
    try:
        yield
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError, csv.Error) as error:
        raise InvalidDataset(f"{file.shown}: cannot be read as {file.kind}: {error}") from None


def _scan_from_start(file: SourceFile) -> Scan:
    """The rows are read once, to be counted: there is no other way to know how many there are."""
    with open_bytes(file) as raw:
        hashed = HashedBytes(raw)
        with decompressed(io.BufferedReader(hashed), file.compression) as content:
            if file.kind == "jsonl":
                num_rows = count_line_rows(content)
            else:
                num_rows = sum(len(block.rows) for block in _READERS[file.kind](content, file))
        return Scan(hashed.sha256(), num_rows, whole_file(num_rows))


def _read_json(content: IO[bytes], file: SourceFile) -> Iterator[NumberedRow]:
    import orjson

    try:
        document = orjson.loads(content.read())
    except orjson.JSONDecodeError as error:
        hint = "a file with one object on each line is called .jsonl"
        raise InvalidDataset(f"{file.shown}: is not JSON: {error}", hint) from None
    if isinstance(document, dict):
        lists = [value for value in document.values() if isinstance(value, list)]
        if len(lists) != 1:
            found = f"an object with {len(lists)} lists"
            raise InvalidDataset(f"{file.shown}: must be a list of rows, or an object with one list, got {found}")
        document = lists[0]
    if not isinstance(document, list):
        raise InvalidDataset(f"{file.shown}: must be a list of rows, or an object with one list")
    for number, row in enumerate(document, start=1):
        yield number, checked_row(row)


def _read_csv(content: IO[bytes], file: SourceFile) -> Iterator[NumberedRow]:
    csv.field_size_limit(sys.maxsize)
    text = io.TextIOWrapper(content, encoding="utf-8-sig", newline="")
    try:
        reader = csv.DictReader(text, strict=True)
        line = 2
        for row in reader:
            number, line = line, reader.line_num + 1
            extra: Any = None  # the key under which DictReader keeps the cells that have no column
            if extra in row:
                columns = len(reader.fieldnames or ())
                yield number, BadRow(f"has more cells than the header has columns ({columns})")
            else:
                yield number, row
    finally:
        text.detach()  # what is below belongs to others, who close it


_READERS: dict[str, Callable[[IO[bytes], SourceFile], Iterator[RowBlock]]] = {
    "jsonl": lambda content, file: read_lines(content),
    "json": lambda content, file: blocks_of(_read_json(content, file)),
    "csv": lambda content, file: blocks_of(_read_csv(content, file)),
}
