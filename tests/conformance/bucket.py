"""A storage that speaks as much of S3 as fsspec asks of it: objects are files below a directory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

import pytest

_NOT_FOUND = b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>"
_REFUSED = b"<Error><Code>AccessDenied</Code><Message>the disk of the storage is full</Message></Error>"


@dataclass
class Bucket:
    """What a test sees of the storage."""

    directory: Path
    """`s3://bucket/` is the directory `bucket` in it."""

    refusals: int = 0
    """How many of the next objects that are put are refused."""

    asked: list[str] = field(default_factory=list)
    """Every request, in order: `PUT /bucket/file`."""


class _Requests(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # clients ask before they send an object

    def __init__(self, *arguments: Any, bucket: Bucket, **keywords: Any) -> None:
        self._bucket = bucket
        super().__init__(*arguments, directory=str(bucket.directory), **keywords)

    @property
    def _place(self) -> Path:
        return Path(self.translate_path(self.path))

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        query = parse_qs(address.query)
        if "list-type" in query:
            self._list(address.path.strip("/"), query)
        else:
            super().do_GET()

    def do_PUT(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self._bucket.refusals:
            self._bucket.refusals -= 1
            self._answer(403, _REFUSED)
            return
        self._place.parent.mkdir(parents=True, exist_ok=True)
        self._place.write_bytes(content)
        self._answer(200)

    def do_DELETE(self) -> None:
        self._place.unlink(missing_ok=True)
        self._answer(204)

    def _list(self, bucket: str, query: dict[str, list[str]]) -> None:
        root, prefix = self._bucket.directory / bucket, query.get("prefix", [""])[0]
        files = sorted(path for path in root.rglob("*") if path.is_file())
        found = [(path.relative_to(root).as_posix(), path.stat().st_size) for path in files]
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>e</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, size in found
            if key.startswith(prefix)
        )
        self._answer(200, f"<ListBucketResult>{contents}<IsTruncated>false</IsTruncated></ListBucketResult>".encode())

    def end_headers(self) -> None:
        self.send_header("ETag", '"some-version"')
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self._answer(code, _NOT_FOUND)

    def _answer(self, code: int, content: bytes = b"") -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        self._bucket.asked.append(f"{self.command} {self.path}")


@contextmanager
def serve_bucket(directory: Path) -> Iterator[Bucket]:
    """The storage, found by the variables of s3fs, until the block ends."""
    from s3fs import S3FileSystem

    bucket = Bucket(directory)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Requests, bucket=bucket))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    variables = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            S3FileSystem.clear_instance_cache()
            yield bucket
    finally:
        S3FileSystem.clear_instance_cache()  # they would speak on with this storage
        server.shutdown()
        server.server_close()
