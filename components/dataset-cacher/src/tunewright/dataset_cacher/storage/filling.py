"""The files of a new cache on this machine's disk: made in a hidden directory, synced, the manifest last."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tunewright.contracts.datasets import MANIFEST_FILE, DatasetManifest
from tunewright.contracts.errors import TunewrightError, Unavailable
from tunewright.contracts.files import sync_directory, write_json_atomically

Fill = Callable[[Path, Path], DatasetManifest]
"""Writes the files of a cache into the first directory, which is empty. The second holds what is to survive a kill."""


def work_directory(parent: Path, digest: str) -> Path:
    """Where the parts of a cache that is being made are: the next preparer goes on with them."""
    return parent / f".{digest}.work"


def temporaries(parent: Path, digest: str) -> list[Path]:
    """What is being written, being removed, or was when its process was killed."""
    return sorted(parent.glob(f".{digest}.*.tmp"))


def remove_temporaries(parent: Path, digest: str) -> None:
    """Remove what a killed process has left. Needs the lock."""
    for path in temporaries(parent, digest):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def remove_work(parent: Path, digest: str) -> None:
    """Remove the finished parts. Needs the lock."""
    shutil.rmtree(work_directory(parent, digest), ignore_errors=True)


@contextmanager
def filled(parent: Path, digest: str, fill: Fill) -> Iterator[tuple[Path, DatasetManifest]]:
    """Let `fill` make a cache below `parent`, whole and synced, for the body to publish. Needs the lock.

    What a killed one left half-written goes away first. The work directory goes away when all is done, and where the
    answer is an error of the data: such a preparation is not gone on with.
    """
    remove_temporaries(parent, digest)
    temporary = parent / f".{digest}.{os.urandom(4).hex()}.tmp"
    work = work_directory(parent, digest)
    temporary.mkdir(parents=True)
    work.mkdir(exist_ok=True)
    try:
        manifest = fill(temporary, work)
        _sync(temporary, manifest)
        yield temporary, manifest
    except TunewrightError as error:
        if not isinstance(error, Unavailable):  # a storage that does not answer says nothing of the data
            remove_work(parent, digest)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    remove_work(parent, digest)


def _sync(directory: Path, manifest: DatasetManifest) -> None:
    for record in manifest.files:
        descriptor = os.open(directory / record.file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    write_json_atomically(directory / MANIFEST_FILE, manifest.to_document())


def publish(temporary: Path, final: Path) -> bool:
    """Give a whole cache its name. False where another one has it: that one stays."""
    while True:
        try:
            temporary.rename(final)
            break
        except OSError:
            if (final / MANIFEST_FILE).is_file():
                return False
            if not final.is_dir():
                raise
            remove_directory(final)  # without a manifest: it was never whole, or is being removed
    sync_directory(final.parent)
    return True


def remove_directory(directory: Path) -> None:
    """Remove a cache: it is gone at once, and its files after that. Who has them open can read on."""
    gone = directory.with_name(f".{directory.name}.{os.urandom(4).hex()}.tmp")
    directory.rename(gone)
    shutil.rmtree(gone)
