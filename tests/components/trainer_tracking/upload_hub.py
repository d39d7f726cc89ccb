"""A stand-in for the hub's HTTP interface for uploads, on a loopback port: what huggingface_hub calls to push a folder.

Written after what huggingface_hub 2.4 sends without Xet, its own protocol for large files, which is not spoken here.
The real hub does more, and may answer otherwise.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secretSECRETsecret"
"""The one token that may write."""


@dataclass
class UploadHub:
    """Repositories by name. `with UploadHub() as hub:` serves until the block ends."""

    branches: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """Repository, branch, file to content."""
    is_private: dict[str, bool] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    """Of the commits, in order."""
    faults: list[tuple[str, int]] = field(default_factory=list)
    """The next requests whose path holds the text are answered with the status, one request each."""
    blobs: dict[str, bytes] = field(default_factory=dict)
    """Large files by SHA-256."""
    large_uploads: int = 0

    @property
    def address(self) -> str:
        """What `HF_ENDPOINT` must be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> UploadHub:
        handler = type("Bound", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: UploadHub

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self._answer(b"")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def do_PUT(self) -> None:
        digest, content = self.path.rpartition("/")[2], self._body()
        if self._fails():
            return
        assert hashlib.sha256(content).hexdigest() == digest
        self.hub.blobs[digest] = content
        self.hub.large_uploads += 1
        self._send(200, {})

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        if self._fails():
            return
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif path.endswith("/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        elif path.startswith("/api/models/"):
            owner, name, action, branch = path.removeprefix("/api/models/").split("/", 3)
            getattr(self, f"_{action}")(f"{owner}/{name}", branch, body)
        else:
            self._send(404, {"error": "no such page"})

    def _fails(self) -> bool:
        for index, (part, status) in enumerate(self.hub.faults):
            if part in self.path:
                del self.hub.faults[index]
                self._send(status, {"error": "as the test asked for"})
                return True
        return False

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.hub.branches:
            self._send(409, {"error": "You already created this model repo", "url": f"{self.hub.address}/{name}"})
            return
        self.hub.branches[name] = {"main": {}}
        self.hub.is_private[name] = wanted.get("private", wanted.get("visibility") == "private")
        self._send(200, {"url": f"{self.hub.address}/{name}", "name": name, "id": name})

    def _branch(self, repository: str, branch: str, body: bytes) -> None:
        branches = self.hub.branches[repository]
        if branch in branches:
            self._send(409, {"error": "exists"})
            return
        branches[branch] = dict(branches["main"])
        self._send(200, {})

    def _preupload(self, repository: str, branch: str, body: bytes) -> None:
        there = self.hub.branches[repository][branch]
        files = []
        for file in json.loads(body)["files"]:
            is_large = file["path"].endswith((".safetensors", "tokenizer.json"))
            content = there.get(file["path"])
            known = content is not None and (
                hashlib.sha256(content).hexdigest() if is_large
                else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            )  # fmt: skip
            files.append({"path": file["path"], "uploadMode": "lfs" if is_large else "regular",
                          "shouldIgnore": False, "oid": known or None})  # fmt: skip
        self._send(200, {"files": files})

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for one in wanted["objects"]:
            upload = {"href": f"{self.hub.address}/large/{one['oid']}"}
            actions = {} if one["oid"] in self.hub.blobs else {"actions": {"upload": upload}}
            objects.append({**one, **actions})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repository: str, branch: str, body: bytes) -> None:
        files = self.hub.branches[repository][branch]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        commit = hashlib.sha1(body).hexdigest()
        self._send(200, {"commitUrl": f"{self.hub.address}/{repository}/commit/{commit}", "commitOid": commit})

    def _revision(self, repository: str, branch: str, body: bytes) -> None:
        self._send(200, {"id": repository, "sha": "f" * 40, "siblings": [], "tags": []})

    def _send(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
