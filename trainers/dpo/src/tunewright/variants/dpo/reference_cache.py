"""Where reference log-probabilities are kept: by a digest of everything that decides them, beside the datasets.

    <cache_root>/reference-log-probabilities/<digest>/
        log_probabilities.npy    float64, one for each sequence of the dataset
        manifest.json            written last; a directory without it is none

A directory appears as a whole. Whoever comes second leaves the first one's in place: both hold the same.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from tunewright.contracts.datasets import FileRecord
from tunewright.contracts.errors import CacheCorrupted
from tunewright.contracts.files import sync_directory, write_bytes_atomically, write_json_atomically
from tunewright.contracts.spec import Spec, digest_of
from tunewright.trainer.api import Say

FORMAT_VERSION = 1
DIRECTORY = "reference-log-probabilities"

LogProbabilities = np.ndarray[Any, np.dtype[np.float64]]

_NUMBERS_FILE = "log_probabilities.npy"
_MANIFEST_FILE = "manifest.json"


class ReferenceManifest(Spec):
    """`manifest.json`: what was computed, and the digest of the file that holds it."""

    format_version: int
    digest: str
    """SHA-256 of `key`; the name of the directory."""

    key: dict[str, Any]
    """Everything that decides the numbers."""

    sequences: int
    file: FileRecord


class ReferenceCache:
    """The reference log-probabilities below several roots. Read from any; written to the first that can be written."""

    def __init__(self, roots: Sequence[Path], say: Say) -> None:
        self._parents, self._say = [root / DIRECTORY for root in roots], say

    def read(self, key: dict[str, Any]) -> LogProbabilities | None:
        """What is kept under `key`, every byte verified. None where nothing is, or nothing whole, which is said."""
        digest = digest_of(key)
        for parent in self._parents:
            try:
                found = read_directory(parent / digest)
            except CacheCorrupted as error:
                self._say(f"reference: {error.message}; computing it again")
                continue
            if found is not None:
                self._say(f"reference: from cache {digest[:12]}, {len(found):,} answers")
                return found
        return None

    def write(self, key: dict[str, Any], values: LogProbabilities) -> None:
        """Keep `values` under `key`. Where nothing can be written, that is said: it costs computing them again."""
        digest = digest_of(key)
        for parent in self._parents:
            try:
                write_directory(parent / digest, key, values)
            except OSError as error:
                self._say(f"reference: {parent} cannot be written ({error.strerror})")
                continue
            self._say(f"reference: kept as {digest[:12]} in {parent}")
            return


def read_directory(directory: Path) -> LogProbabilities | None:
    """The numbers in `directory`, verified. None where there is none. Raises CacheCorrupted."""
    try:
        manifest = ReferenceManifest.model_validate_json((directory / _MANIFEST_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValidationError):
        raise CacheCorrupted(f"{directory / _MANIFEST_FILE} is no manifest") from None
    if not digest_of(manifest.key) == manifest.digest == directory.name or manifest.file.file != _NUMBERS_FILE:
        raise CacheCorrupted(f"{directory / _MANIFEST_FILE}: its key does not give its digest")
    problem = manifest.file.problem(directory)
    if problem is not None:
        raise CacheCorrupted(problem)
    values: LogProbabilities = np.load(directory / _NUMBERS_FILE, allow_pickle=False)
    return values


def write_directory(directory: Path, key: dict[str, Any], values: LogProbabilities) -> None:
    """Write `directory` under a name of our own, then rename it into place, over one that is not whole."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    temporary.mkdir()
    try:
        buffer = io.BytesIO()
        np.save(buffer, values, allow_pickle=False)
        write_bytes_atomically(temporary / _NUMBERS_FILE, buffer.getvalue())
        manifest = ReferenceManifest(
            format_version=FORMAT_VERSION,
            digest=directory.name,
            key=key,
            sequences=len(values),
            file=FileRecord.of(temporary, _NUMBERS_FILE),
        )
        write_json_atomically(temporary / _MANIFEST_FILE, manifest.to_document())
        _publish(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, directory: Path) -> None:
    if _is_whole(directory):
        return
    old = temporary.with_suffix(".old")
    if directory.exists():
        directory.rename(old)
    try:
        temporary.rename(directory)
    except OSError:  # another process was faster
        if not _is_whole(directory):
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
    sync_directory(directory.parent)


def _is_whole(directory: Path) -> bool:
    try:
        return read_directory(directory) is not None
    except CacheCorrupted:
        return False
