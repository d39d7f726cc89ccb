"""How far a fetch is, on standard error: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from tunewright.env_builder.progress import say

PLAIN_SECONDS = 15.0
"""Seconds between two plain lines."""

_UNITS = ("B", "kB", "MB", "GB", "TB")


class TransferProgress(Protocol):
    """Where a transfer reports, from any thread."""

    def start(self, what: str, total_bytes: int, there_bytes: int) -> None:
        """So many bytes are wanted, and so many of them are there from an earlier call."""

    def advance(self, num_bytes: int) -> None:
        """So many more came; fewer than none where some were thrown away."""

    def note(self, message: str) -> None:
        """Say something that stays."""


class PlainTransfer:
    """Lines for logs and pipes: none for what is quickly done."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._what = ""
        self._total = self._there = self._came = 0
        self._started = self._reported = time.monotonic()

    def start(self, what: str, total_bytes: int, there_bytes: int) -> None:
        """Remember when it began."""
        self._what, self._total, self._there, self._came = what, total_bytes, there_bytes, 0
        self._started = self._reported = time.monotonic()

    def advance(self, num_bytes: int) -> None:
        """A line every few seconds."""
        with self._lock:
            self._came += num_bytes
            now = time.monotonic()
            if now - self._reported < PLAIN_SECONDS:
                return
            self._reported = now
            text = describe(self._there, self._came, self._total, now - self._started)
        self.note(f"{self._what}: {text}")

    def note(self, message: str) -> None:
        """A line."""
        say(message)


class BarTransfer:
    """A bar with the rate and the time left."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task: Any = None

    def start(self, what: str, total_bytes: int, there_bytes: int) -> None:
        """Show the bar."""
        self._task = self._bar.add_task(what, total=total_bytes, completed=there_bytes)

    def advance(self, num_bytes: int) -> None:
        """Move the bar."""
        self._bar.advance(self._task, num_bytes)

    def note(self, message: str) -> None:
        """A line above the bar."""
        self._bar.console.print(message, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def make_transfer_progress() -> Iterator[TransferProgress]:
    """A bar where standard error is a terminal, else plain lines."""
    if not sys.stderr.isatty():
        yield PlainTransfer()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield BarTransfer(bar)


def describe(there_bytes: int, came_bytes: int, total_bytes: int, seconds: float) -> str:
    """`1.2 GB of 4.0 GB, 35.0 MB/s, 80 s left`: the rate is that of what came now."""
    rate = came_bytes / max(seconds, 1e-9)
    done = there_bytes + came_bytes
    left = f", {(total_bytes - done) / rate:,.0f} s left" if rate > 0 else ""
    return f"{bytes_text(done)} of {bytes_text(total_bytes)}, {bytes_text(rate)}/s{left}"


def bytes_text(num_bytes: float) -> str:
    """`1.2 GB`: decimal units, as the hub and disks are labelled."""
    for unit in _UNITS:
        if abs(num_bytes) < 1000 or unit == _UNITS[-1]:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    raise AssertionError("the last unit holds everything")
