"""How far a build is, on stderr: a spinner on a terminal, a plain line every 15 seconds elsewhere."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LINE_SECONDS = 15.0
_TAIL_BYTES = 4096
_SHOWN_COLUMNS = 90


def say(text: str) -> None:
    """One line for people."""
    print(text, file=sys.stderr, flush=True)


def last_line(log: Path) -> str:
    """The last line of `log` that says something, shortened."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:_SHOWN_COLUMNS] for line in reversed(lines) if _says_something(line)), "")


def _says_something(line: str) -> bool:
    """Not empty, and none of BuildKit's lines that only name a step's digest."""
    return bool(line.strip()) and not re.fullmatch(r"#\d+ (sha256:\S+|\.\.\.|DONE .*)?", line.strip())


@contextmanager
def showing_bytes(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many bytes went over, with rate and time left. Gives what to call with the bytes done and the total."""
    if sys.stderr.isatty():
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        from rich.console import Console

        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(what, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total or None)
        return
    started = said = time.monotonic()

    def tick(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= _LINE_SECONDS:
            said = time.monotonic()
            rate = done / max(said - started, 1e-9)
            left = f", {(total - done) / rate:.0f} s left" if rate and total > done else ""
            say(f"{what}: {done / 2**20:.0f} of {total / 2**20:.0f} MiB, {rate / 2**20:.1f} MiB/s{left}")

    yield tick


@contextmanager
def showing(what: str, log: Path | None = None) -> Iterator[Callable[[], None]]:
    """Show that `what` goes on, with the seconds it takes and the last line of `log`. Gives what to call meanwhile."""
    started = time.monotonic()

    def text() -> str:
        line = last_line(log) if log else ""
        return f"{what}: {time.monotonic() - started:.0f} s" + (f"   {line}" if line else "")

    if sys.stderr.isatty():
        from rich.console import Console
        from rich.text import Text

        with Console(stderr=True).status(Text(what)) as status:
            yield lambda: status.update(Text(text()))
        return
    said = started

    def tick() -> None:
        nonlocal said
        if time.monotonic() - said >= _LINE_SECONDS:
            said = time.monotonic()
            say(text())

    yield tick
