"""Caches in a directory: on this machine's disk, or on a file system that several machines share."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tunewright.contracts.datasets import MANIFEST_FILE, DatasetManifest, mark_used, read_manifest, verify_cache
from tunewright.contracts.errors import CacheCorrupted
from tunewright.dataset_cacher.storage.filling import (
    Fill,
    filled,
    publish,
    remove_directory,
    remove_temporaries,
    remove_work,
    work_directory,
)
from tunewright.dataset_cacher.storage.locks import FileSlot, KernelLock, Lease, WorkLock
from tunewright.dataset_cacher.storage.store import (
    REMOVE_IT,
    CacheStore,
    Leftover,
    StoredCache,
    is_digest,
    refuse_another,
    size_problems,
)

_HIDDEN = re.compile(r"\.([0-9a-f]{64})\.(work|.*\.tmp)")


class DirectoryStore(CacheStore):
    """All caches below the directory `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    @property
    def memory(self) -> Path:
        """The root itself."""
        return self.root

    def path_of(self, digest: str) -> Path:
        """Its directory; it need not exist."""
        return self.root / digest

    def digests(self) -> list[str]:
        """Every directory with a manifest."""
        return [name for name in self._names() if (self.root / name / MANIFEST_FILE).is_file()]

    def find(self, digest: str, plan_only: bool = False) -> DatasetManifest | None:
        """By its manifest and the sizes of its files."""
        cache = self.path_of(digest)
        if not (cache / MANIFEST_FILE).is_file():
            return None
        manifest = read_manifest(cache)
        refuse_another(manifest, digest, str(cache))
        problems = size_problems(manifest, _sizes_of(cache), str(cache))
        if problems:
            raise CacheCorrupted("\n".join(problems), REMOVE_IT)
        if not plan_only:
            mark_used(cache)
            self.clear_finished(digest)
        return manifest

    def clear_finished(self, digest: str) -> None:
        """Remove the parts of a cache whose preparer was killed when it had just ended."""
        if work_directory(self.root, digest).is_dir():
            self.clear(digest, with_work=True)

    def read_manifest(self, digest: str) -> DatasetManifest:
        """From its directory."""
        return read_manifest(self.path_of(digest))

    def verify(self, digest: str) -> DatasetManifest:
        """From its directory."""
        return verify_cache(self.path_of(digest))

    def lock(self, digest: str, on_wait: Callable[[str], None]) -> AbstractContextManager[Lease]:
        """By the kernel's lock of a file, and a record beside it for other machines."""
        self.root.mkdir(parents=True, exist_ok=True)
        return self._lock(digest).held(on_wait)

    def build(self, digest: str, fill: Fill) -> DatasetManifest:
        """Beside its place, then renamed."""
        final = self.path_of(digest)
        with filled(self.root, digest, fill) as (temporary, manifest):
            return manifest if publish(temporary, final) else read_manifest(final)

    def stored(self) -> list[StoredCache]:
        """By its files. The time of a cache's directory tells when it was used last."""
        return [self._stored(name) for name in self._names()]

    def _stored(self, digest: str) -> StoredCache:
        cache = self.path_of(digest)
        manifest = cache / MANIFEST_FILE
        used_at = cache.stat().st_mtime
        is_whole = manifest.is_file()
        made_at = manifest.stat().st_mtime if is_whole else used_at
        return StoredCache(digest, sum(_sizes_of(cache).values()), made_at, max(made_at, used_at), is_whole)

    def leftovers(self) -> list[Leftover]:
        """Hidden directories with a digest in their names."""
        found = sorted(self.root.glob(".*")) if self.root.is_dir() else []
        matches = ((path, _HIDDEN.fullmatch(path.name)) for path in found)
        return [_leftover(path, match[1], match[2] == "work") for path, match in matches if match]

    def remove(self, digest: str) -> bool:
        """Renamed away, then removed."""
        with self._alone(digest) as is_alone:
            if is_alone and self.path_of(digest).is_dir():
                remove_directory(self.path_of(digest))
        return is_alone

    def clear(self, digest: str, with_work: bool) -> bool:
        """Hidden directories."""
        with self._alone(digest) as is_alone:
            if is_alone:
                remove_temporaries(self.root, digest)
            if is_alone and with_work:
                remove_work(self.root, digest)
        return is_alone

    def is_free(self, digest: str) -> bool:
        """Tried."""
        with self._alone(digest) as is_alone:
            return is_alone

    @contextmanager
    def _alone(self, digest: str) -> Iterator[bool]:
        lock = self._lock(digest)
        with lock.held_if_free(age_of(self.root / f".{digest}.holder")) as is_alone:
            yield is_alone
            if is_alone:
                # Who has opened it meanwhile finds, once they get it, that it is another file than the one there.
                (self.root / f".{digest}.lock").unlink(missing_ok=True)

    def _lock(self, digest: str) -> WorkLock:
        return WorkLock(KernelLock(self.root / f".{digest}.lock"), FileSlot(self.root / f".{digest}.holder"))

    def _names(self) -> list[str]:
        names = os.listdir(self.root) if self.root.is_dir() else []
        return sorted(name for name in names if is_digest(name) and (self.root / name).is_dir())


def age_of(path: Path) -> float:
    """Seconds since a file was changed; 0 where it is not there."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return 0.0


def _sizes_of(directory: Path) -> dict[str, int]:
    with os.scandir(directory) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


def _leftover(path: Path, digest: str, is_work: bool) -> Leftover:
    """A directory's size and its newest change. What goes away meanwhile counts as nothing."""
    changed_at, size = 0.0, 0
    for one in (path, *path.rglob("*")):
        try:
            status = one.stat()
        except FileNotFoundError:
            continue
        changed_at = max(changed_at, status.st_mtime)
        size += status.st_size if one.is_file() else 0
    return Leftover(digest, size, changed_at, is_work)
