"""The caches below one root: what is there, who is making what, and how a cache appears all at once.

A root is a directory or a URL; the two are in `directory_store` and `url_store`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.dataset_copies import is_url
from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.errors import CacheCorrupted, NotFound, UsageError
from tunewright.contracts.experiment_file import find_home, find_project_root
from tunewright.dataset_cacher.storage.filling import Fill
from tunewright.dataset_cacher.storage.locks import Lease

DIGEST_LENGTH = 64
SHORTEST_PREFIX = 6
REMOVE_IT = "remove the cache and prepare it again"


@dataclass(frozen=True)
class StoredCache:
    """One cache of a store, or what is left of one."""

    digest: str
    bytes: int
    """On disk, or in the storage."""

    made_at: float
    """Seconds since 1970."""

    used_at: float
    """When it was prepared, found or trained on last. Seconds since 1970."""

    is_whole: bool = True
    """False for one without a manifest: an upload or a removal that was killed."""


@dataclass(frozen=True)
class Leftover:
    """What a preparer has left, or is at right now."""

    digest: str
    bytes: int
    changed_at: float
    """Seconds since 1970."""

    is_work: bool
    """Finished parts of a preparation, that the next one goes on with."""


class CacheStore(ABC):
    """All caches below one root."""

    location: str
    """The root: an absolute path, or a URL."""

    @staticmethod
    def at(cache_root: str | Path, home: Path | None = None) -> CacheStore:
        """The store at `cache_root`. What one at a URL keeps on this machine is below `home`, else below the home of
        the working directory. Raises InvalidExperiment for a URL of an unknown kind.
        """
        if is_url(str(cache_root)):
            from tunewright.dataset_cacher.storage.url_store import UrlStore

            return UrlStore(str(cache_root), home or find_home(find_project_root(Path.cwd() / ".")))
        from tunewright.dataset_cacher.storage.directory_store import DirectoryStore

        return DirectoryStore(Path(cache_root).absolute())

    @property
    @abstractmethod
    def memory(self) -> Path:
        """The directory on this machine for what is worth remembering between calls."""

    def location_of(self, digest: str) -> str:
        """Where the cache of `digest` is, or will be, as the nodes see it: an absolute path, or a URL."""
        return f"{self.location}/{digest}"

    @abstractmethod
    def path_of(self, digest: str) -> Path:
        """The directory on this machine with the cache of `digest`; from a URL it is copied first, and verified."""

    @abstractmethod
    def digests(self) -> list[str]:
        """Every whole cache, sorted."""

    def resolve(self, prefix: str) -> str:
        """The digest that starts with `prefix`. Raises UsageError for a short one, NotFound for none or several."""
        if len(prefix) < SHORTEST_PREFIX:
            raise UsageError(f"`{prefix}`: a digest needs at least {SHORTEST_PREFIX} of its digits")
        found = [digest for digest in self.digests() if digest.startswith(prefix)]
        if len(found) == 1:
            return found[0]
        if found:
            raise NotFound(f"`{prefix}` is the beginning of {len(found)} caches", f"they are: {', '.join(found)}")
        raise NotFound(f"`{prefix}`: no such cache in {self.location}", "`dataset-cacher list` shows what is there")

    @abstractmethod
    def find(self, digest: str, plan_only: bool = False) -> DatasetManifest | None:
        """The manifest of a whole cache, or None. What is found counts as used now.

        With `plan_only` nothing is written and no socket opened: of a URL is told what was seen there last.
        Raises CacheCorrupted where its files are not those of the manifest. Only sizes are compared here; `verify` and
        the trainer read everything.
        """

    @abstractmethod
    def read_manifest(self, digest: str) -> DatasetManifest:
        """The manifest of a cache, no matter its files. Raises NotFound, CacheCorrupted."""

    @abstractmethod
    def verify(self, digest: str) -> DatasetManifest:
        """Read every byte of the cache where it is. Raises NotFound, or CacheCorrupted with all files that differ."""

    @abstractmethod
    def lock(self, digest: str, on_wait: Callable[[str], None]) -> AbstractContextManager[Lease]:
        """Be the only one who makes the cache of `digest`. `on_wait` hears who is at it where another one is."""

    @abstractmethod
    def build(self, digest: str, fill: Fill) -> DatasetManifest:
        """Let `fill` write a cache, and have it appear under its digest once it is whole. Needs the lock.

        `fill` gets two directories on this machine: an empty one for the files of the cache, and one for finished
        parts, which survives a kill. Where `fill` raises an error of the data nothing stays. Where another one was
        quicker, its manifest is given.
        """

    @abstractmethod
    def stored(self) -> list[StoredCache]:
        """Every cache, whole or not, by its digest."""

    @abstractmethod
    def leftovers(self) -> list[Leftover]:
        """What preparers have left, or are at, by its digest."""

    @abstractmethod
    def remove(self, digest: str) -> bool:
        """Remove a cache: for readers it is gone at once. False, and nothing is done, where somebody is making it."""

    @abstractmethod
    def clear(self, digest: str, with_work: bool) -> bool:
        """Remove what preparers of `digest` have left half-written; `with_work`: their finished parts, too.

        False, and nothing is done, where one is at it.
        """

    @abstractmethod
    def is_free(self, digest: str) -> bool:
        """Whether nobody is making the cache of `digest`."""


def is_digest(name: str) -> bool:
    """Whether `name` can be that of a cache."""
    return len(name) == DIGEST_LENGTH and all(letter in "0123456789abcdef" for letter in name)


def refuse_another(manifest: DatasetManifest, digest: str, place: str) -> None:
    """Raise CacheCorrupted where the manifest is of another cache than the one at its place."""
    if manifest.digest != digest:
        raise CacheCorrupted(f"{place}: its manifest is of another cache, {manifest.digest}", REMOVE_IT)


def size_problems(manifest: DatasetManifest, sizes: dict[str, int], place: str) -> list[str]:
    """What is wrong with files that have `sizes`, by their names."""
    return [
        f"{place}/{record.file}: {f'has {size} bytes' if size is not None else 'is missing'}, "
        f"must have {record.bytes} bytes"
        for record in manifest.files
        if (size := sizes.get(record.file)) != record.bytes
    ]
