"""Digests, numbers of rows and parts of source files, remembered while size, times and inode stay the same."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tunewright.contracts.files import write_bytes_atomically, write_json_atomically
from tunewright.dataset_cacher.reading.opening import Signature, sha256_of, signature_of
from tunewright.dataset_cacher.reading.readers import Part, Scan, has_quick_scan, scan_file
from tunewright.dataset_cacher.reading.sources import SourceFile

MEMORY_FILE = ".source-digests.json"
SCANS_DIRECTORY = ".source-scans"

MOST_READERS = 16
"""Files that are read at once: each holds a part in memory."""

PARTS_VERSION = 1
"""Raise it when files are cut into other parts than before."""

_SETTLED_NANOSECONDS = 2_000_000_000
"""A file changed less than this before it is read is read again next time: within one tick of the file system's clock,
a second change would not show in its times."""


_SEEN: dict[str, tuple[Signature, str]] = {}
"""What this process has read: planning writes nothing down, and a sweep plans a dataset for each of its seeds."""


class DigestMemory:
    """Digests of the files seen by this cache root. A memory that is lost or damaged only costs reading again."""

    def __init__(self, root: Path, is_trusted: bool = True) -> None:
        self._path = root / MEMORY_FILE
        self._scans = root / SCANS_DIRECTORY
        self._known = _SEEN | self._load() if is_trusted else {}
        self._learned: dict[str, tuple[Signature, str]] = {}
        self._scanned: dict[str, tuple[Signature, Scan]] = {}
        self._unsaved: dict[str, Scan] = {}

    def sha256_of(self, file: Path | SourceFile) -> str:
        """The file's digest, from memory where nothing about it has changed."""
        return self._identify(file)[1]

    def identify(self, files: Sequence[SourceFile]) -> tuple[tuple[Signature, str], ...]:
        """Signature and digest of each file: of its content as it was not before the signature was taken."""
        if len(files) < 2 or all(not one.is_remote and one.location in self._known for one in files):
            return tuple(map(self._identify, files))
        from concurrent.futures import ThreadPoolExecutor  # here: a hit of one file needs none

        with ThreadPoolExecutor(min(len(files), MOST_READERS, 2 * (os.cpu_count() or 1))) as pool:
            return tuple(pool.map(self._identify, files))

    def scan_of(self, file: SourceFile) -> Scan:
        """Digest, number of rows and parts, from memory where nothing about the file has changed."""
        return self._scan(file, signature_of(file))

    def _identify(self, file: Path | SourceFile) -> tuple[Signature, str]:
        signature = signature_of(file)
        known = self._known.get(_key_of(file))
        if known is not None and known[0] == signature:
            return signature, known[1]
        if isinstance(file, SourceFile) and has_quick_scan(file):
            return signature, self._scan(file, signature).sha256
        digest = sha256_of(file)
        self._remember(file, signature, digest)
        return signature, digest

    def _scan(self, file: SourceFile, signature: Signature) -> Scan:
        key = _key_of(file)
        if key in self._scanned and self._scanned[key][0] == signature:
            return self._scanned[key][1]
        known = self._known.get(key)
        scan = self._load_scan(file, known[1]) if known is not None and known[0] == signature else None
        if scan is None:
            scan = scan_file(file)
            self._unsaved[_scan_name(file, scan.sha256)] = scan
            self._remember(file, signature, scan.sha256)
        self._scanned[key] = (signature, scan)
        return scan

    def save(self) -> None:
        """Write down what was learned, beside what others wrote meanwhile."""
        if self._learned:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with _alone_in(self._path.parent) as is_alone:
                if is_alone:
                    _remove_unfinished(self._path)
                write_json_atomically(self._path, self._load() | self._learned)
        import orjson  # here and below: a hit needs neither

        for name, scan in self._unsaved.items():
            self._scans.mkdir(parents=True, exist_ok=True)
            parts = [[part.first_row, part.num_rows, part.start, part.end, part.first_line] for part in scan.parts]
            write_bytes_atomically(self._scans / name, orjson.dumps({"num_rows": scan.num_rows, "parts": parts}))

    def _remember(self, file: Path | SourceFile, signature: Signature, digest: str) -> None:
        times = [one for one in signature[1:3] if isinstance(one, int)]
        if signature == signature_of(file) and time.time_ns() - max(times, default=0) > _SETTLED_NANOSECONDS:
            key = _key_of(file)
            self._known[key] = self._learned[key] = _SEEN[key] = (signature, digest)

    def _load(self) -> dict[str, tuple[Signature, str]]:
        try:
            document = json.loads(self._path.read_bytes())
            return {str(path): (list(signature), str(digest)) for path, (signature, digest) in document.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def _load_scan(self, file: SourceFile, sha256: str) -> Scan | None:
        import orjson

        try:
            document = orjson.loads((self._scans / _scan_name(file, sha256)).read_bytes())
            parts = tuple(Part(*(int(number) for number in part)) for part in document["parts"])
            return Scan(sha256, int(document["num_rows"]), parts)
        except (OSError, ValueError, TypeError, KeyError):
            return None


@contextmanager
def _alone_in(directory: Path) -> Iterator[bool]:
    """Hold `directory` while its memory is written; false where its file system has no such locks."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        is_locked = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            is_locked = False
        yield is_locked
    finally:
        os.close(descriptor)


def _remove_unfinished(path: Path) -> None:
    """What a writer of `path` that was killed has left beside it. Only for who is alone there."""
    for temporary in path.parent.glob(f".{path.name}.*.tmp"):
        temporary.unlink(missing_ok=True)


def _key_of(file: Path | SourceFile) -> str:
    return file.location if isinstance(file, SourceFile) else str(file)


def _scan_name(file: SourceFile, sha256: str) -> str:
    """By content and how it is read: parts depend on nothing else."""
    return f"{sha256}.{'.'.join(filter(None, [file.kind, file.compression]))}.{PARTS_VERSION}.json"
