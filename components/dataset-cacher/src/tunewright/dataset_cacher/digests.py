"""SHA-256 of source files, remembered while their size, times and inode stay the same."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tunewright.contracts.files import sha256_of_file, write_json_atomically

MEMORY_FILE = ".source-digests.json"

_SETTLED_NANOSECONDS = 2_000_000_000
"""A file changed less than this before it is read is read again next time: within one tick of the file system's clock,
a second change would not show in its times."""


def signature_of(path: Path) -> list[int]:
    """What changes when a file does: size, times of its content and of its inode, the inode itself."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


class DigestMemory:
    """Digests of the files seen by this cache root. A memory that is lost or damaged only costs reading again."""

    def __init__(self, root: Path) -> None:
        self._path = root / MEMORY_FILE
        self._known = self._load()
        self._learned: dict[str, tuple[list[int], str]] = {}

    def sha256_of(self, path: Path) -> str:
        """The file's digest, from memory where nothing about it has changed."""
        key, signature = str(path), signature_of(path)
        known = self._known.get(key)
        if known is not None and known[0] == signature:
            return known[1]
        digest = sha256_of_file(path)
        if signature == signature_of(path) and time.time_ns() - max(signature[1:3]) > _SETTLED_NANOSECONDS:
            self._known[key] = self._learned[key] = (signature, digest)
        return digest

    def save(self) -> None:
        """Write down what was learned, beside what others wrote meanwhile."""
        if self._learned:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomically(self._path, self._load() | self._learned)

    def _load(self) -> dict[str, tuple[list[int], str]]:
        try:
            document = json.loads(self._path.read_bytes())
            return {str(path): (list(signature), str(digest)) for path, (signature, digest) in document.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}
