"""A cache at a URL (`s3://`, `gs://`), brought to this machine: once for all its processes, verified, never half there.

fsspec and the storage's own package are imported when a URL is opened, not before.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunewright.contracts.datasets import MANIFEST_FILE, DatasetManifest, read_manifest
from tunewright.contracts.errors import CacheCorrupted, InvalidExperiment, NotFound, TunewrightError, Unavailable
from tunewright.contracts.file_locks import held
from tunewright.contracts.files import write_bytes_atomically

NODE_CACHE_VARIABLE = "TUNEWRIGHT_NODE_CACHE"
"""Where a node keeps its copies: a directory on its own disk."""

SCHEMES = {"s3": "s3fs", "gs": "gcsfs"}
"""The storages there are, each with the package that fsspec reaches it by."""

PARALLEL_TRANSFERS = 4
"""Files that are up- or downloaded at once: one connection seldom fills a line."""


def is_url(place: str) -> bool:
    """Whether `place` is a URL and not a path."""
    return "://" in place


def node_cache_directory() -> Path:
    """Where this node keeps its copies: `$TUNEWRIGHT_NODE_CACHE`, else this user's own directory for temporary files.

    Raises Unavailable where somebody else has made that directory: what lies in it would not be trusted.
    """
    import tempfile

    configured = os.environ.get(NODE_CACHE_VARIABLE)
    if configured:
        return Path(configured).absolute()
    own = Path(tempfile.gettempdir()) / f"tunewright-{os.getuid()}"
    own.mkdir(mode=0o700, exist_ok=True)
    if own.is_symlink() or own.stat().st_uid != os.getuid():
        raise Unavailable(f"{own}: belongs to another user", f"set {NODE_CACHE_VARIABLE} to a directory of yours")
    return own / "datasets"


def check_url(url: str) -> None:
    """Raise InvalidExperiment for a URL of an unknown kind, or one with a password in it."""
    scheme, _, rest = url.partition("://")
    if scheme not in SCHEMES:
        known = " or ".join(f"{one}://" for one in SCHEMES)
        raise InvalidExperiment(f"`{url}`: must be a directory, or a URL with {known}")
    if "@" in rest.partition("/")[0]:
        words = f"`{scheme}://...`: a URL must not hold a password: it would be written down"
        raise InvalidExperiment(words, "give it in the storage's own variables, AWS_SECRET_ACCESS_KEY for example")


def open_objects(url: str) -> tuple[Any, str]:
    """The file system of `url`, and the URL's path in it.

    Raises InvalidExperiment as `check_url`; Unavailable where the package that reaches its storage is not installed.
    """
    check_url(url)
    try:
        from fsspec.core import url_to_fs

        # Listings are never remembered: other machines write there.
        file_system, path = url_to_fs(url, use_listings_cache=False)
    except ImportError:
        package = SCHEMES[url.partition("://")[0]]
        raise Unavailable(f"`{url}`: the package `{package}` is not installed") from None
    return file_system, str(path).rstrip("/")


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turn what a storage raises into Unavailable. FileNotFoundError and FileExistsError are answers: they pass."""
    try:
        yield
    except (FileNotFoundError, FileExistsError, TunewrightError):
        raise
    except Exception as error:  # of many kinds: network, credentials, permissions, the storage's own
        reason = (str(error).strip() or "no words").split("\n")[0]
        hint = "are its credentials, its region and its endpoint set, and is the network up?"
        raise Unavailable(f"{url}: {type(error).__name__}: {reason}", hint) from error


def read_remote_manifest(url: str) -> bytes:
    """The bytes of `manifest.json` of the cache at `url`. Raises NotFound where there is none, Unavailable."""
    file_system, path = open_objects(url)
    try:
        with reaching(url):
            data: bytes = file_system.cat_file(f"{path}/{MANIFEST_FILE}")
            return data
    except FileNotFoundError:
        raise NotFound(f"{url}: no prepared dataset (it has no {MANIFEST_FILE})") from None


def fetch_copy(url: str, digest: str, place: Path, note: Callable[[str], None]) -> Path:
    """The cache `digest` at `url`, whole, in the directory `place / digest`; copied there where it is not yet.

    Several processes share one copy: the others wait. `note` hears of a copy that begins. Every file is compared with
    its SHA-256. Raises NotFound, Unavailable (also where the disk is too small), CacheCorrupted.
    """
    target = place / digest
    if (target / MANIFEST_FILE).is_file():
        return target
    place.mkdir(parents=True, exist_ok=True)
    with held(place / f".{digest}.lock", mode=0o600):
        if not (target / MANIFEST_FILE).is_file():
            note(f"dataset {digest[:12]}: copying it from {url} to {target}")
            _copy(url, digest, target)
    return target


def _copy(url: str, digest: str, target: Path) -> None:
    for stale in target.parent.glob(f".{digest}.*.tmp"):  # left by a killed one: we hold the lock
        shutil.rmtree(stale)
    temporary = target.with_name(f".{digest}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        write_bytes_atomically(temporary / MANIFEST_FILE, read_remote_manifest(url))
        manifest = read_manifest(temporary)
        if manifest.digest != digest:
            raise CacheCorrupted(f"{url}: its manifest is of another cache, {manifest.digest}")
        _need_space(temporary, manifest)
        download_files(url, manifest, temporary)
        if target.exists():  # without a manifest: it was never whole
            shutil.rmtree(target)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def download_files(url: str, manifest: DatasetManifest, directory: Path) -> None:
    """Every file that `manifest` vouches for, from `url` to `directory`. Raises CacheCorrupted with all that differ."""
    from concurrent.futures import ThreadPoolExecutor

    file_system, path = open_objects(url)

    def download(file: str) -> None:
        if Path(file).name != file:
            raise CacheCorrupted(f"{url}: its manifest names a file outside of it: {file}")
        with reaching(f"{url}/{file}"):
            file_system.get_file(f"{path}/{file}", str(directory / file))

    def problem(file: str) -> str | None:
        record = records[file]
        try:
            download(file)
        except FileNotFoundError:
            return f"{url}/{file}: is missing"
        found = record.problem(directory)
        return found.replace(str(directory / file), f"{url}/{file}") if found else None

    records = {record.file: record for record in manifest.files}
    with ThreadPoolExecutor(PARALLEL_TRANSFERS) as pool:
        problems = [found for found in pool.map(problem, records) if found]
    if problems:
        raise CacheCorrupted("\n".join(problems), "remove the cache and prepare it again; it was not trained on")


def _need_space(directory: Path, manifest: DatasetManifest) -> None:
    needed, free = sum(record.bytes for record in manifest.files), shutil.disk_usage(directory).free
    if needed > free:
        words = f"{directory.parent}: the dataset has {needed / 1e9:,.1f} GB, the disk {free / 1e9:,.1f} GB free"
        raise Unavailable(words, f"set {NODE_CACHE_VARIABLE} to a directory on a larger disk")
