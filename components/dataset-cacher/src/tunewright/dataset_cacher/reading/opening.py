"""Opens a source file for reading, wherever it lies and however it is compressed; tells when it has changed."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from tunewright.contracts.files import sha256_of_file
from tunewright.dataset_cacher.reading.sources import SourceFile

READ_BYTES = 1 << 20
"""What a read of a compressed file, or of one that is only hashed, takes at once."""

ZSTD_READ_BYTES = 1 << 14
"""What is decompressed at once, to something of unknown size."""

Signature = list[int | str]
"""What changes when a file does: of local files four whole numbers, of others one and two texts."""


def signature_of(file: SourceFile | Path) -> Signature:
    """What changes when a file does: size, times of its content and of its inode, the inode itself.

    Of a file in an object store: size, ETag and time of its last change, as the store tells them now.
    """
    if isinstance(file, SourceFile) and file.is_remote:
        from tunewright.dataset_cacher.reading.remote import remote_signature

        return remote_signature(file.location)
    stat = (file.path if isinstance(file, SourceFile) else file).stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def sha256_of(file: SourceFile | Path) -> str:
    """SHA-256 of the file's bytes as they lie there."""
    if isinstance(file, Path):
        return sha256_of_file(file)
    with open_bytes(file) as raw:
        return HashedBytes(raw).sha256()


@contextmanager
def open_bytes(file: SourceFile) -> Iterator[IO[bytes]]:
    """The file's own bytes, compressed as they are, from the start; can seek."""
    if file.is_remote:
        from tunewright.dataset_cacher.reading.remote import open_remote

        with open_remote(file.location) as remote:
            yield remote
    else:
        with file.path.open("rb", buffering=0) as stream:
            yield cast("IO[bytes]", stream)


@contextmanager
def open_content(file: SourceFile) -> Iterator[IO[bytes]]:
    """The file's content, decompressed, from the start."""
    with open_bytes(file) as raw, decompressed(raw, file.compression) as content:
        yield content


@contextmanager
def open_range(file: SourceFile, start: int, end: int) -> Iterator[IO[bytes] | io.RawIOBase]:
    """The bytes from `start` to `end`, fewer where the file is shorter by now. Of a remote file all at once."""
    if file.is_remote:
        from tunewright.dataset_cacher.reading.remote import read_remote_range

        yield io.BytesIO(read_remote_range(file.location, start, end))
    else:
        with file.path.open("rb", buffering=0) as stream:
            stream.seek(start)
            yield _Beginning(stream, end - start)


class _Beginning(io.RawIOBase):
    """The next bytes of another stream, and no more."""

    def __init__(self, stream: io.RawIOBase, num_bytes: int) -> None:
        self._stream: Any = stream
        self._left = num_bytes

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`. Gives the number of bytes, 0 at the end."""
        count: int = self._stream.readinto(memoryview(buffer)[: self._left])
        self._left -= count
        return count


def read_into(stream: Any, buffer: memoryview) -> int:
    """Fill `buffer` from what has `readinto`. Gives the number of bytes, fewer than it has only at the stream's end.

    Where parts end must not depend on how a stream hands out its bytes.
    """
    filled = 0
    while filled < len(buffer) and (count := stream.readinto(buffer[filled : filled + READ_BYTES])):
        filled += count
    return filled


class HashedBytes(io.RawIOBase):
    """Another stream, from its start to its end, and the SHA-256 of what went through."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream: Any = stream
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`. Gives the number of bytes, 0 at the end."""
        count: int = self._stream.readinto(buffer)
        self._digest.update(memoryview(buffer)[:count])
        return count

    def sha256(self) -> str:
        """Of the whole stream: what was not read yet is read now."""
        block = bytearray(READ_BYTES)
        while self.readinto(block):
            pass
        return self._digest.hexdigest()


@contextmanager
def decompressed(raw: IO[bytes], compression: str) -> Iterator[IO[bytes]]:
    """The content of `raw`. A file that was cut off raises EOFError."""
    if not compression:
        yield raw
        return
    with _DECOMPRESSORS[compression](raw) as content:
        yield io.BufferedReader(content, READ_BYTES)


def _gunzipped(raw: IO[bytes]) -> Any:
    import gzip

    return gzip.GzipFile(fileobj=raw, mode="rb")


def _bunzipped(raw: IO[bytes]) -> Any:
    import bz2

    return bz2.BZ2File(raw)


def _unxzed(raw: IO[bytes]) -> Any:
    import lzma

    return lzma.LZMAFile(raw)


class _Unzstd(io.RawIOBase):
    """The content of Zstandard frames, one behind another. zstandard's own reader is silent about a frame cut off."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frame: Any = None
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer`. Gives the number of bytes, 0 at the end."""
        while not self._left:
            block = self._next_block()
            if block is None:
                return 0
            self._left = memoryview(block)
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count

    def _next_block(self) -> bytes | None:
        """What the next bytes hold, maybe nothing; None at the end."""
        import zstandard

        rest = self._frame.unused_data if self._frame is not None and self._frame.eof else b""
        block = rest or self._raw.read(ZSTD_READ_BYTES)
        if not block:
            if self._frame is not None and not self._frame.eof:
                raise EOFError("the file ends in the middle of a Zstandard frame")
            return None
        if self._frame is None or self._frame.eof:
            self._frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        try:
            return cast("bytes", self._frame.decompress(block))
        except zstandard.ZstdError as error:
            raise OSError(str(error)) from None


_DECOMPRESSORS: dict[str, Callable[[IO[bytes]], Any]] = {
    "gz": _gunzipped,
    "bz2": _bunzipped,
    "xz": _unxzed,
    "zst": _Unzstd,
}
