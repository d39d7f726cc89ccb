"""Rows of jsonl: blocks of whole lines, counted and parsed without a step for each line that could be saved."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import IO

from tunewright.dataset_cacher.reading.opening import HashedBytes, open_bytes, read_into, read_range
from tunewright.dataset_cacher.reading.scans import PART_BYTES, BadRow, NumberedRow, Part, Scan, checked_row
from tunewright.dataset_cacher.reading.sources import SourceFile

_BLANK_START = re.compile(rb"\n\s")
"""A line of JSON starts with a bracket: only one that starts with white space may be blank."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def scan_lines(file: SourceFile) -> Scan:
    """Digest, rows and parts of an uncompressed file, in one read."""
    parts, row, line, start = [], 0, 1, 0
    with open_bytes(file) as raw:
        hashed = HashedBytes(raw)
        for block in _line_blocks(hashed):
            num_lines, num_rows = _count_lines(block)
            if num_rows:
                parts.append(Part(row, num_rows, start, start + len(block), line))
            row, line, start = row + num_rows, line + num_lines, start + len(block)
        return Scan(hashed.sha256(), row, tuple(parts))


def read_lines_between(file: SourceFile, part: Part) -> Iterator[NumberedRow]:
    """The rows of a part of an uncompressed file."""
    return _parsed_lines(read_range(file, part.start, part.end), part.first_line)


def count_line_rows(content: IO[bytes]) -> int:
    """How many rows `read_lines` gives."""
    return sum(_count_lines(block)[1] for block in _line_blocks(content))


def read_lines(content: IO[bytes]) -> Iterator[NumberedRow]:
    """All rows of a stream, from its start."""
    line = 1
    for block in _line_blocks(content):
        content_of_block = bytes(block)
        yield from _parsed_lines(content_of_block, line)
        line += content_of_block.count(b"\n")


def _line_blocks(stream: IO[bytes] | io.RawIOBase) -> Iterator[memoryview]:
    """The stream in blocks of whole lines, as near to PART_BYTES as lines allow; a longer line makes a longer block.

    Each block is gone when the next one is asked for: they share their memory.
    """
    buffer, filled = bytearray(PART_BYTES), 0
    while count := read_into(stream, memoryview(buffer)[filled:]):
        end = filled + count
        cut = buffer.rfind(b"\n", filled, end) + 1  # none before: what is left of a block is a line begun
        if cut:
            yield memoryview(buffer)[:cut]
            rest = buffer[cut:end]
            buffer = buffer if len(buffer) == PART_BYTES else bytearray(PART_BYTES)
            buffer[: len(rest)], filled = rest, len(rest)
        else:
            buffer, filled = buffer if end < len(buffer) else buffer + bytes(PART_BYTES), end
    if filled:
        yield memoryview(buffer)[:filled]


def _count_lines(shared: memoryview) -> tuple[int, int]:
    """Lines of a block, which holds something, and how many of them are not blank."""
    block = bytes(shared)
    num_lines = block.count(b"\n") + (not block.endswith(b"\n"))
    if not block[:1].isspace() and _BLANK_START.search(block) is None:
        return num_lines, num_lines
    return num_lines, sum(not line.isspace() for line in io.BytesIO(block))


def _parsed_lines(block: bytes, first_line: int) -> Iterator[NumberedRow]:
    if first_line == 1 and block.startswith(_BYTE_ORDER_MARK):
        block = block[len(_BYTE_ORDER_MARK) :]
    import orjson  # here: to count lines, or to name a dataset, nothing is parsed

    loads = orjson.loads
    for number, line in enumerate(block.split(b"\n"), start=first_line):
        try:
            row = loads(line)
        except orjson.JSONDecodeError as error:
            # Asked here only: blank lines are rare, and asking each line costs.
            if line.strip():
                yield number, BadRow(f"is not JSON: {error}")
        else:
            yield number, row if type(row) is dict else checked_row(row)
