"""How far the preparation is, on standard error: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

PLAIN_SECONDS = 5.0
"""Seconds between two plain lines."""


class Progress(Protocol):
    """Where the preparation reports."""

    def start(self, num_rows: int) -> None:
        """So many rows will be encoded."""

    def advance(self, num_rows: int, num_tokens: int) -> None:
        """So many more are encoded."""

    def note(self, message: str) -> None:
        """Say something that stays."""


class PlainProgress:
    """Lines for logs and pipes: none for what is quickly done."""

    def __init__(self) -> None:
        self._total = self._rows = self._tokens = 0
        self._started = self._reported = time.monotonic()

    def start(self, num_rows: int) -> None:
        """Remember when it began."""
        self._total = num_rows
        self._started = self._reported = time.monotonic()

    def advance(self, num_rows: int, num_tokens: int) -> None:
        """A line every few seconds."""
        self._rows += num_rows
        self._tokens += num_tokens
        now = time.monotonic()
        if now - self._reported >= PLAIN_SECONDS:
            self._reported = now
            self.note(f"dataset: {describe(self._rows, self._total, self._tokens, now - self._started)}")

    def note(self, message: str) -> None:
        """A line."""
        print(message, file=sys.stderr, flush=True)


class BarProgress:
    """A bar with rates and the time left."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task: Any = None
        self._tokens = 0

    def start(self, num_rows: int) -> None:
        """Show the bar."""
        self._task = self._bar.add_task("dataset", total=num_rows, rate="")

    def advance(self, num_rows: int, num_tokens: int) -> None:
        """Move the bar."""
        self._tokens += num_tokens
        self._bar.advance(self._task, num_rows)
        task = self._bar.tasks[self._task]
        seconds = task.elapsed or 0.0
        self._bar.update(self._task, rate=rates(int(task.completed), self._tokens, seconds))

    def note(self, message: str) -> None:
        """A line above the bar."""
        self._bar.console.print(message, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def make_progress() -> Iterator[Progress]:
    """A bar where standard error is a terminal, else plain lines."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
               TimeRemainingColumn())  # fmt: skip
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        yield BarProgress(bar)


def describe(num_rows: int, total_rows: int, num_tokens: int, seconds: float) -> str:
    """`1,000 of 4,000 rows, 500 rows/s, 40,000 tokens/s, 6 s left`."""
    left = (total_rows - num_rows) * seconds / num_rows if num_rows else 0.0
    return f"{num_rows:,} of {total_rows:,} rows, {rates(num_rows, num_tokens, seconds)}, {left:,.0f} s left"


def rates(num_rows: int, num_tokens: int, seconds: float) -> str:
    """`500 rows/s, 40,000 tokens/s`."""
    seconds = max(seconds, 1e-9)
    return f"{num_rows / seconds:,.0f} rows/s, {num_tokens / seconds:,.0f} tokens/s"
