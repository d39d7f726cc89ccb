"""Disks: how much is free, and one that is full, in words."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tunewright.contracts.errors import Unavailable


def free_bytes(directory: Path) -> int:
    """Free space on the disk that holds `directory`, which need not be there yet."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    return shutil.disk_usage(existing).free


@contextmanager
def full_disk_in_words(directory: Path, hint: str) -> Iterator[None]:
    """Raise Unavailable where the disk of `directory` fills up."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Unavailable(f"the disk of {directory} is full: {error.strerror}", hint) from None
