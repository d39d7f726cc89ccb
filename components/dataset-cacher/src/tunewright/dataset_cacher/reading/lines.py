"""Rows of jsonl: blocks of whole lines, counted and parsed without a step for each line that could be saved."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import IO

from tunewright.dataset_cacher.reading.opening import HashedBytes, open_bytes, open_range, read_into
from tunewright.dataset_cacher.reading.scans import PART_BYTES, BadRow, NumberedRow, Part, RowBlock, Scan, checked_row
from tunewright.dataset_cacher.reading.sources import SourceFile

_BLANK_START = re.compile(rb"\n\s")
"""A line of JSON starts with a bracket: only one that starts with white space may be blank."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_WHITE_SPACE = frozenset(b" \t\n\r\v\f")

BLOCK_BYTES = 1 << 18
"""What is parsed at once."""

_SAMPLE_BYTES, _SHORT_LINE_BYTES = 1 << 14, 512
"""Lines that are longer than this in the sample are found one by one, which is faster then than counting them."""


def scan_lines(file: SourceFile) -> Scan:
    """Digest, rows and parts of an uncompressed file, in one read."""
    parts, row, line, start = [], 0, 1, 0
    with open_bytes(file) as raw:
        hashed = HashedBytes(raw)
        for block in _line_blocks(hashed, PART_BYTES):
            num_lines, num_rows = _count_lines(block)
            if num_rows:
                parts.append(Part(row, num_rows, start, start + len(block), line))
            row, line, start = row + num_rows, line + num_lines, start + len(block)
        return Scan(hashed.sha256(), row, tuple(parts))


def read_lines_between(file: SourceFile, part: Part) -> Iterator[RowBlock]:
    """The rows of a part of an uncompressed file."""
    with open_range(file, part.start, part.end) as content:
        yield from read_lines(content, part.first_line)


def count_line_rows(content: IO[bytes]) -> int:
    """How many rows `read_lines` gives."""
    return sum(_count_lines(block)[1] for block in _line_blocks(content, PART_BYTES))


def read_lines(content: IO[bytes] | io.RawIOBase, first_line: int = 1) -> Iterator[RowBlock]:
    """All rows of a stream of whole lines, from where it is."""
    for block in _line_blocks(content, BLOCK_BYTES):
        lines = _cut_lines(block, len(_BYTE_ORDER_MARK) if first_line == 1 and _starts_marked(block) else 0)
        yield _parsed(lines, first_line)
        first_line += len(lines)


def _starts_marked(block: memoryview) -> bool:
    return block[: len(_BYTE_ORDER_MARK)] == _BYTE_ORDER_MARK


def _line_blocks(stream: IO[bytes] | io.RawIOBase, num_bytes: int) -> Iterator[memoryview]:
    """The stream in blocks of whole lines, as near to `num_bytes` as lines allow; a longer line makes a longer block.

    Each block is gone when the next one is asked for: they share their memory.
    """
    buffer, filled = bytearray(num_bytes), 0
    while count := read_into(stream, memoryview(buffer)[filled:]):
        end = filled + count
        cut = buffer.rfind(b"\n", filled, end) + 1  # none before: what is left of a block is a line begun
        if cut:
            yield memoryview(buffer)[:cut]
            rest = buffer[cut:end]
            buffer = buffer if len(buffer) == num_bytes else bytearray(num_bytes)
            buffer[: len(rest)], filled = rest, len(rest)
        else:
            buffer, filled = buffer if end < len(buffer) else buffer + bytes(num_bytes), end
    if filled:
        yield memoryview(buffer)[:filled]


def _count_lines(shared: memoryview) -> tuple[int, int]:
    """Lines of a block, which holds something, and how many of them are not blank."""
    buffer, size = shared.obj, len(shared)
    assert isinstance(buffer, bytearray)  # searched where it is: a copy would take longer than the search
    sampled = min(size, _SAMPLE_BYTES)
    has_long_lines = buffer.count(b"\n", 0, sampled) * _SHORT_LINE_BYTES < sampled
    num_breaks, may_be_blank = (_count_long if has_long_lines else _count_short)(buffer, size)
    num_lines = num_breaks + (not buffer.endswith(b"\n", 0, size))
    if buffer[0] not in _WHITE_SPACE and not may_be_blank:
        return num_lines, num_lines
    return num_lines, sum(not line.isspace() for line in io.BytesIO(shared))


def _count_short(buffer: bytearray, size: int) -> tuple[int, bool]:
    """Line breaks, and whether any line but the first starts with white space."""
    return buffer.count(b"\n", 0, size), _BLANK_START.search(buffer, 0, size) is not None


def _count_long(buffer: bytearray, size: int) -> tuple[int, bool]:
    """The same, line by line."""
    num_breaks, may_be_blank, place = 0, False, buffer.find(b"\n", 0, size)
    while place >= 0:
        num_breaks += 1
        place += 1
        may_be_blank = may_be_blank or (place < size and buffer[place] in _WHITE_SPACE)
        place = buffer.find(b"\n", place, size)
    return num_breaks, may_be_blank


def _cut_lines(block: memoryview, start: int) -> list[memoryview]:
    """The lines from `start` on, which are not copied."""
    buffer, size = block.obj, len(block)
    assert isinstance(buffer, bytearray)  # searched where it is
    lines = []
    while start < size:
        stop = buffer.find(b"\n", start, size)
        if stop < 0:
            stop = size
        lines.append(block[start:stop])
        start = stop + 1
    return lines


def _parsed(lines: list[memoryview], first_line: int) -> RowBlock:
    import orjson  # here: to count lines, or to name a dataset, nothing is parsed

    try:
        rows = list(map(orjson.loads, lines))
    except orjson.JSONDecodeError:  # one of them is blank, or not JSON
        numbered = list(_parsed_one_by_one(lines, first_line))
        return RowBlock([number for number, _ in numbered], [row for _, row in numbered])
    if set(map(type, rows)) != {dict}:
        rows = [checked_row(row) for row in rows]
    return RowBlock(range(first_line, first_line + len(rows)), rows)


def _parsed_one_by_one(lines: list[memoryview], first_line: int) -> Iterator[NumberedRow]:
    import orjson

    for number, line in enumerate(lines, start=first_line):
        try:
            row = checked_row(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            if line.tobytes().strip():
                yield number, BadRow(f"is not JSON: {error}")
        else:
            yield number, row
