"""Files in object stores, through fsspec: listed, told apart by ETag, read by ranges."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from tunewright.contracts.dataset_copies import open_objects, reaching
from tunewright.contracts.errors import NotFound, Unavailable

READ_AHEAD_BYTES = 16 << 20
"""What is asked for beyond what is read: a request takes as long as some megabytes."""


@contextmanager
def _asking(url: str) -> Iterator[None]:
    """What a store answers other than data, as Unavailable or NotFound."""
    with reaching(url):
        try:
            yield
        except FileNotFoundError:
            raise NotFound(f"`{url}`: nothing is there") from None


def list_below(url: str) -> list[str] | None:
    """Paths of the files below the prefix `url`, relative to it; None where `url` itself is a file.

    Raises NotFound where there is nothing.
    """
    with _asking(url):
        file_system, path = open_objects(url)
        described = file_system.info(path)
        if described["type"] == "file":
            return None
        return [str(one).removeprefix(f"{path}/") for one in file_system.find(path)]


def list_matching(url: str) -> list[str]:
    """URLs of the files that match the glob `url`."""
    with _asking(url):
        file_system, path = open_objects(url)
        found = file_system.glob(path, detail=True)
        return [f"{url.partition('://')[0]}://{name}" for name, one in found.items() if one["type"] == "file"]


def read_remote(url: str) -> bytes:
    """All of a small file."""
    with _asking(url):
        file_system, path = open_objects(url)
        return cast("bytes", file_system.cat_file(path))


def read_remote_range(url: str, start: int, end: int) -> bytes:
    """The bytes from `start` to `end`, in one request."""
    with _asking(url):
        file_system, path = open_objects(url)
        block = cast("bytes", file_system.cat_file(path, start=start, end=end))
    if len(block) > end - start:
        raise Unavailable(f"`{url}`: the store gives {len(block)} bytes where {end - start} are asked for")
    return block


def remote_signature(url: str) -> list[int | str]:
    """Size, ETag and time of the last change, as the store tells them now."""
    with _asking(url):
        file_system, path = open_objects(url)
        told = file_system.info(path)
    tag = told.get("ETag") or told.get("etag") or told.get("md5Hash") or ""
    changed = told.get("LastModified") or told.get("updated") or told.get("mtime") or ""
    return [int(told["size"]), str(tag), str(changed)]


@contextmanager
def open_remote(url: str) -> Iterator[IO[bytes]]:
    """A stream over the file that can seek and reads ahead."""
    with _asking(url):
        file_system, path = open_objects(url)
        stream = file_system.open(path, "rb", block_size=READ_AHEAD_BYTES, cache_type="readahead")
    with stream:
        yield cast("IO[bytes]", _Asked(stream, url))


class _Asked(io.RawIOBase):
    """A remote stream whose failures are errors of ours, wherever they come up."""

    def __init__(self, stream: Any, url: str) -> None:
        self._stream = stream
        self._url = url

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any stream."""
        return cast("int", self._stream.seek(offset, whence))

    def tell(self) -> int:
        """As of any stream."""
        return cast("int", self._stream.tell())

    def read(self, size: int = -1) -> bytes:
        """As of any stream."""
        with _asking(self._url):
            return cast("bytes", self._stream.read(size))

    def readinto(self, buffer: Any) -> int:
        """As of any stream."""
        block = self.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)
