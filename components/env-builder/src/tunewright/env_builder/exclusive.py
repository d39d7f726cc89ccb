"""One process at a time, for what must be done once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunewright.contracts import file_locks
from tunewright.env_builder.progress import say


@contextmanager
def held(lock: Path, waiting: str) -> Iterator[None]:
    """Hold the file `lock`, in a directory that is made where it is not there. Says `waiting` where another has it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with file_locks.held(lock, lambda: say(waiting)):
        yield
