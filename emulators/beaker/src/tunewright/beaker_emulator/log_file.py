"""Log files of jobs: lines with the time each was written, readable while they grow. Standard library only."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_HEADER = struct.Struct(">QI")
LONGEST_LINE_BYTES = 8 << 20
"""Longer lines are cut: a message of the protocol holds 64 MiB at most."""


@dataclass(frozen=True)
class LogLine:
    """One line, without the newline that ended it."""

    time_ns: int
    text: bytes


class LogWriter:
    """Cuts what a job writes into lines, each later than the one before, if only by a nanosecond."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._rest = b""
        self._last_ns = 0

    def write(self, data: bytes) -> None:
        """Take what was read; a line that has not ended yet waits."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        framed = [self._framed(piece) for line in lines for piece in _pieces(line)]
        if len(self._rest) >= LONGEST_LINE_BYTES:
            framed.append(self._framed(self._rest[:LONGEST_LINE_BYTES]))
            self._rest = self._rest[LONGEST_LINE_BYTES:]
        if framed:
            self._file.write(b"".join(framed))

    def close(self) -> None:
        """Write what never ended in a newline."""
        if self._rest:
            self._file.write(b"".join(self._framed(piece) for piece in _pieces(self._rest)))
        self._rest = b""
        self._file.close()

    def _framed(self, line: bytes) -> bytes:
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        return _HEADER.pack(self._last_ns, len(line)) + line


def _pieces(line: bytes) -> list[bytes]:
    starts = range(0, len(line), LONGEST_LINE_BYTES) if line else (0,)
    return [line[start : start + LONGEST_LINE_BYTES] for start in starts]


class LogReader:
    """Reads a log file from its start, and again what came since."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def lines(self) -> Iterator[LogLine]:
        """The whole lines that have come since the last call."""
        if self._file is None:
            if not self._path.exists():
                return
            self._file = self._path.open("rb")
        while (line := self._next(self._file)) is not None:
            yield line

    def _next(self, file: BinaryIO) -> LogLine | None:
        start = file.tell()
        header = file.read(_HEADER.size)
        if len(header) == _HEADER.size:
            time_ns, length = _HEADER.unpack(header)
            text = file.read(length)
            if len(text) == length:
                return LogLine(time_ns, text)
        file.seek(start, os.SEEK_SET)
        return None

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            self._file.close()
