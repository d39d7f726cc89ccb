"""Caches in a storage of objects: files that are never written over, a manifest that only one writer can write.

    <root>/<digest>/...             the files of a cache, then manifest.json
    <root>/.locks/<digest>          who makes it
    <root>/.used/<digest>           its time tells when it was used last

A file is uploaded only where there is none of its name. Where one is there with other bytes (another version of a
library wrote it, and was killed), ours gets a name with its SHA-256 in it: whatever a manifest refers to stays as it
was when the manifest was written, and what nobody finished is never referred to.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from tunewright.contracts.dataset_copies import PARALLEL_TRANSFERS, fetch_copy
from tunewright.contracts.datasets import (
    MANIFEST_FILE,
    DatasetManifest,
    FileRecord,
    mark_used,
    parse_manifest,
    verify_cache,
)
from tunewright.contracts.errors import CacheCorrupted, NotFound, Unavailable
from tunewright.contracts.files import json_text, write_bytes_atomically
from tunewright.dataset_cacher.storage.directory_store import DirectoryStore
from tunewright.dataset_cacher.storage.filling import Fill, filled, publish
from tunewright.dataset_cacher.storage.locks import KernelLock, Lease, WorkLock
from tunewright.dataset_cacher.storage.objects import ObjectInfo, Objects, ObjectSlot
from tunewright.dataset_cacher.storage.store import (
    REMOVE_IT,
    CacheStore,
    Leftover,
    StoredCache,
    is_digest,
    refuse_another,
    size_problems,
)

COPIES_DIRECTORY = ".remote"
"""Below the home's `datasets`: copies of caches at URLs, by digest."""

_LOCKS, _USED = ".locks", ".used"
_MARK_EVERY_SECONDS = 3600.0


class UrlStore(CacheStore):
    """All caches below the URL `url`. Copies and what is being made are on this machine, below `home`."""

    def __init__(self, url: str, home: Path) -> None:
        self.location = url.rstrip("/")
        self._home = home
        self._copies = DirectoryStore(home / "datasets" / COPIES_DIRECTORY)
        self._objects = Objects(self.location)

    @property
    def memory(self) -> Path:
        """Where a store in the home would be."""
        return self._home / "datasets"

    def path_of(self, digest: str) -> Path:
        """A copy that is whole: made now where there is none."""
        copy = fetch_copy(self.location_of(digest), digest, self._copies.root, _say)
        mark_used(copy)
        return copy

    def digests(self) -> list[str]:
        """By one listing."""
        return sorted(one.digest for one in self.stored() if one.is_whole)

    def find(self, digest: str, plan_only: bool = False) -> DatasetManifest | None:
        """By its manifest and a listing of its files. The manifest is remembered on this machine, for plans."""
        if plan_only:
            return self._remembered(digest)
        data = self._objects.read(f"{digest}/{MANIFEST_FILE}")
        if data is None:
            self._forget(digest)
            return None
        manifest = self._parse(digest, data)
        sizes = {one.name.partition("/")[2]: one.bytes for one in self._objects.list(digest)}
        problems = size_problems(manifest, sizes, self.location_of(digest))
        if problems:
            raise CacheCorrupted("\n".join(problems), REMOVE_IT)
        self._remember(digest, data)
        self._copies.clear_finished(digest)
        return manifest

    def read_manifest(self, digest: str) -> DatasetManifest:
        """From the storage."""
        data = self._objects.read(f"{digest}/{MANIFEST_FILE}")
        if data is None:
            raise NotFound(f"{self.location_of(digest)}: no prepared dataset (it has no {MANIFEST_FILE})")
        return self._parse(digest, data)

    def verify(self, digest: str) -> DatasetManifest:
        """Every object is read; this machine's copy as well, where there is one."""
        manifest = self.read_manifest(digest)
        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            problems = [one for one in pool.map(lambda record: self._problem(digest, record), manifest.files) if one]
        if problems:
            raise CacheCorrupted("\n".join(problems), f"{REMOVE_IT}; it was not trained on")
        with suppress(NotFound):
            verify_cache(self._copies.path_of(digest))
        return manifest

    def _problem(self, digest: str, record: FileRecord) -> str | None:
        name = f"{digest}/{record.file}"
        actual = self._objects.sha256_of(name)
        if actual is None:
            return f"{self.location}/{name}: is missing"
        return (
            None if actual == record.sha256 else f"{self.location}/{name}: sha256 is {actual}, must be {record.sha256}"
        )

    def lock(self, digest: str, on_wait: Callable[[str], None]) -> AbstractContextManager[Lease]:
        """By an object of the storage, and the kernel's lock of a file among the processes of this machine."""
        self._copies.root.mkdir(parents=True, exist_ok=True)
        return self._lock(digest).held(on_wait)

    def _lock(self, digest: str) -> WorkLock:
        kernel_lock = KernelLock(self._copies.root / f".{digest}.lock")
        return WorkLock(kernel_lock, ObjectSlot(self._objects, f"{_LOCKS}/{digest}"))

    def build(self, digest: str, fill: Fill) -> DatasetManifest:
        """On this machine, then uploaded; what was built stays as this machine's copy."""
        with filled(self._copies.root, digest, fill) as (temporary, manifest):
            uploaded = self._upload(digest, temporary, manifest)
            data = json_text(uploaded.to_document()).encode()
            # Of two writers, one writes it. It is whole then: its files are there, and nobody writes over them.
            if self._objects.create(f"{digest}/{MANIFEST_FILE}", data) is None:
                data = self._objects.read(f"{digest}/{MANIFEST_FILE}") or data
                uploaded = self._parse(digest, data)
            else:
                write_bytes_atomically(temporary / MANIFEST_FILE, data)
                publish(temporary, self._copies.path_of(digest))
        self._remember(digest, data)
        return uploaded

    def _upload(self, digest: str, directory: Path, manifest: DatasetManifest) -> DatasetManifest:
        """Upload every file. Gives the manifest with the names they have there, and the files here the same."""
        with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
            names = list(pool.map(lambda record: self._upload_file(digest, directory, record), manifest.files))
        renamed = {record.file: name for record, name in zip(manifest.files, names, strict=True) if name != record.file}
        for old, new in renamed.items():
            (directory / old).rename(directory / new)
        return with_names(manifest, renamed) if renamed else manifest

    def _upload_file(self, digest: str, directory: Path, record: FileRecord) -> str:
        """Upload a file under its name; under one with its SHA-256 where that name has another content."""
        stem, dot, suffix = record.file.partition(".")
        for name in (record.file, f"{stem}-{record.sha256}{dot}{suffix}"):
            if self._objects.upload(f"{digest}/{name}", directory / record.file):
                return name
            if self._objects.sha256_of(f"{digest}/{name}") == record.sha256:
                return name
        raise Unavailable(f"{self.location_of(digest)}/{name}: is there, and is not what its name says")

    def stored(self) -> list[StoredCache]:
        """By one listing of the whole root."""
        files: dict[str, list[ObjectInfo]] = defaultdict(list)
        used: dict[str, float] = {}
        for one in self._objects.list():
            folder, _, name = one.name.partition("/")
            if is_digest(folder):
                files[folder].append(one)
            elif folder == _USED:
                used[name] = one.changed_at
        return [_stored(digest, files[digest], used.get(digest, 0.0)) for digest in sorted(files)]

    def leftovers(self) -> list[Leftover]:
        """On this machine. An unfinished upload is a cache that is not whole."""
        return self._copies.leftovers()

    def remove(self, digest: str) -> bool:
        """The manifest first: without it nothing is a cache. The copy of this machine goes, too."""
        with self._lock_if_free(digest) as is_alone:
            if is_alone:
                self._objects.remove(f"{digest}/{MANIFEST_FILE}")
                for one in self._objects.list(digest):
                    self._objects.remove(one.name)
                self._objects.remove(f"{_USED}/{digest}")
                self._forget(digest)
        if is_alone:
            self._copies.remove(digest)
        return is_alone

    def clear(self, digest: str, with_work: bool) -> bool:
        """On this machine: the preparers of a URL's caches hold the lock there, too."""
        return self._copies.clear(digest, with_work)

    def is_free(self, digest: str) -> bool:
        """Tried."""
        with self._lock_if_free(digest) as is_alone:
            return is_alone

    def _lock_if_free(self, digest: str) -> AbstractContextManager[bool]:
        self._copies.root.mkdir(parents=True, exist_ok=True)
        found = [one for one in self._objects.list(_LOCKS) if one.name == f"{_LOCKS}/{digest}"]
        return self._lock(digest).held_if_free(time.time() - found[0].changed_at if found else 0.0)

    def _parse(self, digest: str, data: bytes) -> DatasetManifest:
        place = self.location_of(digest)
        manifest = parse_manifest(data, f"{place}/{MANIFEST_FILE}")
        refuse_another(manifest, digest, place)
        return manifest

    def _memory_of(self, digest: str) -> Path:
        return self._copies.root / f".{digest}.manifest.json"

    def _remembered(self, digest: str) -> DatasetManifest | None:
        with suppress(OSError, CacheCorrupted):
            return self._parse(digest, self._memory_of(digest).read_bytes())
        return None

    def _remember(self, digest: str, data: bytes) -> None:
        """Keep the manifest for plans, and tell others now and then that the cache is in use."""
        memory = self._memory_of(digest)
        is_new = not memory.is_file()
        if is_new or time.time() - memory.stat().st_mtime > _MARK_EVERY_SECONDS:
            memory.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(memory, data)
            self._objects.overwrite(f"{_USED}/{digest}", b"")

    def _forget(self, digest: str) -> None:
        self._memory_of(digest).unlink(missing_ok=True)


def _stored(digest: str, files: list[ObjectInfo], used_at: float) -> StoredCache:
    manifests = [one.changed_at for one in files if one.name == f"{digest}/{MANIFEST_FILE}"]
    made_at = manifests[0] if manifests else max(one.changed_at for one in files)
    size = sum(one.bytes for one in files)
    return StoredCache(digest, size, made_at, max(made_at, used_at), bool(manifests))


def with_names(manifest: DatasetManifest, renamed: dict[str, str]) -> DatasetManifest:
    """The manifest with files under other names."""
    document = manifest.to_document()
    records = [*document["shards"], *(document[name] for name in ("packing", "statistics", "tokenizer"))]
    for record in filter(None, records):
        record["file"] = renamed.get(record["file"], record["file"])
    return DatasetManifest.model_validate(document)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
