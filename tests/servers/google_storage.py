"""As much of Google's object store as gcsfs asks for, with its preconditions: the emulators there are have none."""

from __future__ import annotations

import base64
import email
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

_UPLOAD, _OBJECTS = "/upload/storage/v1/b/", "/storage/v1/b/"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        query = self._query()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name, content = query.get("name", ""), body
        if query["uploadType"] == "multipart":  # a description in JSON, then the content
            head = f"Content-Type: {self.headers['Content-Type']}\n\n".encode()
            description, part = cast("list[Any]", email.message_from_bytes(head + body).get_payload())
            name, content = json.loads(description.get_payload())["name"], part.get_payload(decode=True)
        with self.server.lock:  # type: ignore[attr-defined]  # the server below
            found = self._objects.get(name)
            wanted = query.get("ifGenerationMatch")
            if wanted is not None and wanted != (found["generation"] if found else "0"):
                self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
                return
            self.server.generation += 1  # type: ignore[attr-defined]
            self._objects[name] = one = {"content": content, "generation": str(self.server.generation)}  # type: ignore[attr-defined]
        self._answer(200, _described(name, one))

    def do_GET(self) -> None:
        path, query = urlsplit(self.path).path, self._query()
        if path.rstrip("/").endswith("/o"):
            prefix = query.get("prefix", "")
            names = sorted(name for name in self._objects if name.startswith(prefix))
            self._answer(200, {"items": [_described(name, self._objects[name]) for name in names]})
            return
        name = unquote(path.partition("/o/")[2])
        found = self._objects.get(name)
        if found is None:
            self._answer(404, {"error": {"code": 404, "message": "no such object"}})
        elif query.get("alt") == "media" or path.startswith("/download/"):
            self._send(200, found["content"])
        else:
            self._answer(200, _described(name, found))

    def do_DELETE(self) -> None:
        gone = self._objects.pop(unquote(urlsplit(self.path).path.partition("/o/")[2]), None)
        self._send(204 if gone else 404, b"")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is said."""

    @property
    def _objects(self) -> dict[str, dict[str, Any]]:
        return self.server.objects  # type: ignore[attr-defined, no-any-return]

    def _query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}

    def _answer(self, code: int, document: Any) -> None:
        self._send(code, json.dumps(document).encode())

    def _send(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _described(name: str, one: dict[str, Any]) -> dict[str, Any]:
    time = "2026-01-02T03:04:05.678Z"
    digest = base64.b64encode(hashlib.md5(one["content"]).digest()).decode()
    return {"kind": "storage#object", "name": name, "bucket": "bucket", "size": str(len(one["content"])),
            "generation": one["generation"], "md5Hash": digest, "updated": time, "timeCreated": time,
            "contentType": "application/octet-stream"}  # fmt: skip


@contextmanager
def serve_google_storage() -> Iterator[str]:
    """The address of an empty store with every bucket, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.objects, server.lock, server.generation = {}, threading.Lock(), 1000  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
