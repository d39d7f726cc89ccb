"""Locks that the kernel gives back when their holder ends, however it ends: `flock` of a file that stays."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(lock: Path, on_wait: Callable[[], object] | None = None, mode: int = 0o644) -> Iterator[None]:
    """Hold the file `lock`, which is made with `mode` where it is not there: one process of this machine at a time.

    `on_wait` is called where another has it, before it is waited for. Raises OSError where the file cannot be opened
    for writing, or its file system has no locks.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, mode)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if on_wait:
                on_wait()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_held(lock: Path) -> bool:
    """Whether a living process holds the file `lock`; no, where it is not there. Makes no file.

    It asks by a shared lock, so that two who ask at once do not take each other for the holder. Raises OSError where
    that cannot be told.
    """
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
