"""Objects of a storage below one URL: written only where nothing stands, or over the very version that was seen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tunewright.contracts.dataset_copies import check_url, open_objects, reaching
from tunewright.contracts.errors import Unavailable
from tunewright.dataset_cacher.storage.locks import Seen

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class ObjectInfo:
    """One object of a listing."""

    name: str
    """Relative to the URL."""

    bytes: int
    changed_at: float
    """Seconds since 1970."""


class Objects:
    """The objects below `url`. Each method raises Unavailable where the storage does not answer or refuses."""

    def __init__(self, url: str) -> None:
        check_url(url)
        self.url = url.rstrip("/")
        self._is_s3 = self.url.startswith("s3://")

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        return open_objects(self.url)

    @property
    def _files(self) -> Any:
        """The file system: opened at its first use, since it opens sockets."""
        return self._opened[0]

    @property
    def _path(self) -> str:
        return self._opened[1]

    def read(self, name: str) -> bytes | None:
        """The content, or None where there is no such object."""
        with reaching(f"{self.url}/{name}"):
            try:
                data: bytes = self._files.cat_file(f"{self._path}/{name}")
            except FileNotFoundError:
                return None
            return data

    def version_of(self, name: str) -> str | None:
        """What changes with every write of the object; None where there is none."""
        with reaching(f"{self.url}/{name}"):
            try:
                # `info` may find a "directory" where the object itself is not there.
                info = self._files.info(f"{self._path}/{name}", refresh=True)
            except FileNotFoundError:
                return None
            version = info.get("ETag") if self._is_s3 else info.get("generation")
            return None if version is None else str(version)

    def create(self, name: str, data: bytes) -> str | None:
        """Write an object where there is none: its version, or None where there is one already."""
        return self._put(name, data, "*")

    def replace(self, name: str, data: bytes, version: str) -> str | None:
        """Write over `version`: the new version, or None where that does not stand there any more."""
        return self._put(name, data, version)

    def overwrite(self, name: str, data: bytes) -> None:
        """Write an object, whatever stands there."""
        with _writing(f"{self.url}/{name}"):
            self._files.pipe_file(f"{self._path}/{name}", data)

    def upload(self, name: str, path: Path) -> bool:
        """Upload a file where there is no object; False where there is one already. It appears whole or not at all."""
        with _writing(f"{self.url}/{name}"):
            try:
                self._files.put_file(str(path), f"{self._path}/{name}", mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if not _is_refused_condition(error):
                    raise
                return False
            return True

    def sha256_of(self, name: str) -> str | None:
        """SHA-256 of the content, read block by block; None where there is no such object."""
        digest = hashlib.sha256()
        with reaching(f"{self.url}/{name}"):
            try:
                with self._files.open(f"{self._path}/{name}", "rb", block_size=_BLOCK_BYTES) as file:
                    while block := file.read(_BLOCK_BYTES):
                        digest.update(block)
            except FileNotFoundError:
                return None
        return digest.hexdigest()

    def list(self, below: str = "") -> Iterator[ObjectInfo]:
        """Every object whose name starts with the folder `below`."""
        with reaching(self.url):
            try:
                found = self._files.find(f"{self._path}/{below}".rstrip("/"), detail=True, refresh=True)
            except FileNotFoundError:
                found = {}
        for name, info in found.items():
            if name.startswith(f"{self._path}/"):
                changed = info.get("LastModified") or info.get("mtime")
                yield ObjectInfo(
                    name[len(self._path) + 1 :], int(info["size"]), changed.timestamp() if changed else 0.0
                )

    def remove(self, name: str) -> None:
        """Remove an object; it may be gone already."""
        with reaching(f"{self.url}/{name}"):
            try:
                self._files.rm_file(f"{self._path}/{name}")
            except FileNotFoundError:
                return

    def _put(self, name: str, data: bytes, condition: str) -> str | None:
        """Write where nothing stands (`*`), or over the version `condition`."""
        with _writing(f"{self.url}/{name}"):
            try:
                return self._put_s3(name, data, condition) if self._is_s3 else self._put_gs(name, data, condition)
            except FileExistsError:
                return None
            except FileNotFoundError:  # the version is gone, and the object with it
                if condition == "*":
                    raise
                return None
            except OSError as error:
                if not _is_refused_condition(error):
                    raise
                return None

    def _put_s3(self, name: str, data: bytes, condition: str) -> str:
        bucket, key, _ = self._files.split_path(f"{self._path}/{name}")
        conditions = {"IfNoneMatch": "*"} if condition == "*" else {"IfMatch": condition}
        # Not `pipe_file`: it does not tell the version that it wrote.
        answer = self._files.call_s3("put_object", Bucket=bucket, Key=key, Body=data, **conditions)
        return str(answer["ETag"])

    def _put_gs(self, name: str, data: bytes, condition: str) -> str:
        bucket, key, _ = self._files.split_path(f"{self._path}/{name}")
        address = f"{self._files.base.replace('/storage/v1/', '/upload/storage/v1/')}b/{bucket}/o"
        answer: dict[str, Any] = self._files.call(
            "POST", address, uploadType="media", name=key, data=data, json_out=True,
            headers={"Content-Type": "application/json"}, ifGenerationMatch="0" if condition == "*" else condition,
        )  # fmt: skip
        return str(answer["generation"])


@contextmanager
def _writing(url: str) -> Iterator[None]:
    """As `reaching`. A write that finds nothing there found no bucket."""
    with reaching(url):
        try:
            yield
        except FileNotFoundError:
            raise Unavailable(f"{url}: there is no such bucket") from None


def _is_refused_condition(error: OSError) -> bool:
    """Whether S3 refused a write because of its condition: 412, or 409 where two were at it in one moment."""
    response = getattr(error.__cause__, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return code in ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")


@dataclass(frozen=True)
class ObjectSlot:
    """A lock's record in an object."""

    objects: Objects
    name: str
    poll_seconds: float = 1.0

    def read(self) -> Seen | None:
        """The version first: where the content is newer than it, replacing it fails, and nothing is lost."""
        version = self.objects.version_of(self.name)
        data = self.objects.read(self.name) if version is not None else None
        return None if version is None or data is None else Seen(data, version)

    def create(self, data: bytes) -> str | None:
        """A conditional write. Sent twice, by a storage's client that tries again, it meets itself."""
        return self.objects.create(self.name, data) or self._own(data)

    def replace(self, data: bytes, version: str) -> str | None:
        """A conditional write, as above."""
        return self.objects.replace(self.name, data, version) or self._own(data)

    def clear(self, last: bytes, version: str) -> None:
        """Say that it is free. Removing knows no condition everywhere: it might take away the next one's lock."""
        self.objects.replace(self.name, last, version)

    def _own(self, data: bytes) -> str | None:
        seen = self.read()
        return seen.version if seen is not None and seen.data == data else None
