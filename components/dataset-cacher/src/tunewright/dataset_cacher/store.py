"""The directory of caches: what is there, who is making what, and how a cache appears all at once."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.datasets import MANIFEST_FILE, DatasetManifest, read_manifest
from tunewright.contracts.errors import CacheCorrupted, InvalidExperiment, NotFound, UsageError
from tunewright.contracts.files import sync_directory, write_json_atomically

DIGEST_LENGTH = 64
SHORTEST_PREFIX = 6


@dataclass(frozen=True)
class CacheStore:
    """All caches below one directory."""

    root: Path

    @classmethod
    def at(cls, cache_root: str | Path) -> CacheStore:
        """The store at `cache_root`. Raises InvalidExperiment for a URL."""
        if "://" in str(cache_root):
            words = f"cache root `{cache_root}`: this version keeps caches in directories only"
            raise InvalidExperiment(words, "give a directory that all nodes see")
        return cls(Path(cache_root).absolute())

    def path_of(self, digest: str) -> Path:
        """Where the cache of `digest` is, or will be."""
        return self.root / digest

    def digests(self) -> list[str]:
        """Every whole cache, sorted."""
        manifests = self.root.glob(f"*/{MANIFEST_FILE}") if self.root.is_dir() else ()
        return sorted(path.parent.name for path in manifests if _is_digest(path.parent.name))

    def resolve(self, prefix: str) -> str:
        """The digest that starts with `prefix`. Raises UsageError for a short one, NotFound for none or several."""
        if len(prefix) < SHORTEST_PREFIX:
            raise UsageError(f"`{prefix}`: a digest needs at least {SHORTEST_PREFIX} of its digits")
        found = [digest for digest in self.digests() if digest.startswith(prefix)]
        if len(found) == 1:
            return found[0]
        if found:
            raise NotFound(f"`{prefix}` is the beginning of {len(found)} caches", f"they are: {', '.join(found)}")
        raise NotFound(f"`{prefix}`: no such cache in {self.root}", "`dataset-cacher list` shows what is there")

    def find(self, digest: str) -> DatasetManifest | None:
        """The manifest of a whole cache, or None. Raises CacheCorrupted where its files are not those of the manifest.

        Only sizes are compared here; `verify` and the trainer read everything.
        """
        cache = self.path_of(digest)
        if not (cache / MANIFEST_FILE).is_file():
            return None
        manifest = read_manifest(cache)
        if manifest.digest != digest:
            raise CacheCorrupted(f"{cache}: its manifest is of another cache, {manifest.digest}", _REMOVE_IT)
        for record in manifest.files:
            path = cache / record.file
            size = path.stat().st_size if path.is_file() else None
            if size != record.bytes:
                found = "is missing" if size is None else f"has {size} bytes"
                raise CacheCorrupted(f"{path}: {found}, must have {record.bytes} bytes", _REMOVE_IT)
        return manifest

    @contextmanager
    def lock(self, digest: str, on_wait: Callable[[], None]) -> Iterator[None]:
        """Be the only one who makes the cache of `digest`. `on_wait` is called where another one is at it.

        The kernel frees the lock of a process that dies. The lock's file stays: removing it would let two in.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / f".{digest}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                on_wait()
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def build(self, digest: str, fill: Callable[[Path], DatasetManifest]) -> DatasetManifest:
        """Let `fill` write a cache, and have it appear under its digest once it is whole. Needs the lock.

        Where `fill` raises, nothing stays. What a killed builder left goes away first.
        """
        for stale in self.root.glob(f".{digest}.*.tmp"):
            shutil.rmtree(stale)
        temporary = self.root / f".{digest}.{os.getpid()}.tmp"
        temporary.mkdir()
        try:
            manifest = fill(temporary)
            for record in manifest.files:
                _sync_file(temporary / record.file)
            write_json_atomically(temporary / MANIFEST_FILE, manifest.to_document())
            final = self.path_of(digest)
            if final.exists():  # without a manifest: it was never whole, or is being deleted
                shutil.rmtree(final)
            temporary.rename(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_directory(self.root)
        return manifest


_REMOVE_IT = "remove the cache's directory and prepare it again"


def _is_digest(name: str) -> bool:
    return len(name) == DIGEST_LENGTH and all(letter in "0123456789abcdef" for letter in name)


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
