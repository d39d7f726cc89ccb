"""A stand-in for the model hub's HTTP interface, on a loopback port: what huggingface_hub calls to look at a model and
to fetch its files, and the ways in which that goes wrong. A dataset is a model called `datasets/OWNER/NAME`.

It was written after what huggingface_hub sends and reads. The real hub does more (Xet, pages of trees, quotas), and may
answer otherwise: nothing here proves that it does not. Large files are redirected to a second name of this machine, as
the hub redirects them to its content network, so that a token that travels too far is seen.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE_SUFFIXES = (".safetensors", ".bin", ".onnx", ".gguf", ".pt")
"""What the hub keeps as large files, known by SHA-256; the rest is known by its git id."""

TOKEN = "hf_secretSECRETsecret"
"""The one token that this hub accepts."""

_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True)
class Call:
    """One request as it came."""

    method: str
    path: str
    host: str
    start: int
    """First byte asked for."""
    authorization: str | None


@dataclass
class Fault:
    """An answer other than the right one, so many times."""

    status: int
    times: int
    name: str | None
    """The file it is for; None for questions about the model."""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class ModelHub:
    """Models at commits, and what was asked for. `with ModelHub() as hub:` serves until the block ends."""

    models: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    shas: dict[str, str] = field(default_factory=dict)
    """Revision to the commit it is of, for revisions that are no commits."""
    announced_bytes: dict[str, int] = field(default_factory=dict)
    """File name to a size other than the true one."""
    served_instead: dict[str, bytes] = field(default_factory=dict)
    """File name to bytes other than the announced ones."""
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """File name to how many bytes each of the next answers sends before the connection breaks."""
    stalls: dict[str, int] = field(default_factory=dict)
    """File name to how many bytes are sent before nothing more comes, until `close`."""
    faults: list[Fault] = field(default_factory=list)
    ignores_ranges: bool = False
    calls: list[Call] = field(default_factory=list)
    served: Counter[str] = field(default_factory=Counter)
    """Bytes sent of each file."""

    def add(self, model_id: str, files: Mapping[str, bytes]) -> str:
        """Host `files` as a commit of `model_id`. Gives the commit."""
        summary = json.dumps({name: hashlib.sha1(content).hexdigest() for name, content in files.items()})
        commit = hashlib.sha1(f"{model_id}{summary}".encode()).hexdigest()
        self.models.setdefault(model_id, {})[commit] = dict(files)
        return commit

    def fail(self, status: int, times: int = 1, name: str | None = None, **headers: str) -> None:
        """Answer the next `times` requests (for the file `name`) with `status`."""
        named = {key.replace("_", "-"): value for key, value in headers.items()}
        self.faults.append(Fault(status, times, name, named))

    @property
    def address(self) -> str:
        """What `HF_ENDPOINT` must be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def large_address(self) -> str:
        """Where large files come from: another host, as far as a client can tell."""
        return f"http://localhost:{self._server.server_address[1]}"

    def files_asked(self) -> list[str]:
        """The paths below `resolve` and of large files that were fetched, in order."""
        return [call.path for call in self.calls if "/resolve/" in call.path or call.path.startswith("/large/")]

    def __enter__(self) -> ModelHub:
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler_of(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Serve nothing any more."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.closing.is_set():
            self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in mid-file is what these tests are about."""


def git_id(content: bytes) -> str:
    """What git calls a file with this content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def blob_name(name: str, content: bytes) -> str:
    """What the hub's clients call the content of the file `name`."""
    return hashlib.sha256(content).hexdigest() if name.endswith(LARGE_SUFFIXES) else git_id(content)


def _handler_of(hub: ModelHub) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        """Bound to its hub: the server makes one for each connection."""

    Handler.hub = hub
    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ModelHub

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        authorization = self.headers.get("Authorization")
        self.hub.calls.append(Call(self.command, path, self.headers.get("Host", ""), start, authorization))
        if path.startswith("/large/"):
            self._send_large(path.removeprefix("/large/"), start)
        elif path.startswith("/api/models/"):
            self._send_description(path.removeprefix("/api/models/"))
        elif path.startswith("/api/datasets/"):
            self._send_description(path.removeprefix("/api/"))
        elif "/resolve/" in path:
            self._send_file(path.lstrip("/"), start)
        else:
            self._send(404, b"no such page")

    def _find(self, model_id: str, commit: str) -> dict[str, bytes] | None:
        """The files of a model; None where the refusal is sent already."""
        if self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
            # huggingface_hub tells a bad token by these words.
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif model_id not in self.hub.models:
            # The hub does not tell strangers what there is.
            known = self.headers.get("Authorization") is not None
            self._refuse(404 if known else 401, "RepoNotFound" if known else "", "Repository not found")
        elif commit not in self.hub.models[model_id]:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {commit}")
        else:
            return self.hub.models[model_id][commit]
        return None

    def _send_description(self, rest: str) -> None:
        kind = "/tree/" if "/tree/" in rest else "/revision/"
        model_id, _, commit = rest.partition(kind)
        commit, _, folder = commit.partition("/")
        if self._fails(None):
            return
        files = self._find(model_id, commit)
        if files is None:
            return
        described = [self._describe(name, content) for name, content in files.items()]
        if kind == "/tree/":
            self._send_tree([_as_tree_entry(one) for one in described], folder)
        else:
            sha, gated = self.hub.shas.get(commit, commit), "manual" if model_id in self.hub.gated else False
            name = model_id.removeprefix("datasets/")
            self._send_json({"id": name, "sha": sha, "private": False, "gated": gated, "tags": [],
                             "siblings": described})  # fmt: skip

    def _send_tree(self, entries: list[dict[str, Any]], folder: str) -> None:
        """All files below `folder`, or what is directly in it."""
        below = f"{folder}/" if folder else ""
        entries = [one for one in entries if one["path"].startswith(below)]
        if folder and not entries:
            self._refuse(404, "EntryNotFound", f"{folder} does not exist")
        elif "recursive=true" in urlsplit(self.path).query.lower():
            self._send_json(entries)
        else:
            folders = {f"{below}{one['path'].removeprefix(below).split('/')[0]}" for one in entries}
            files = [one for one in entries if one["path"] in folders]
            inner = sorted(folders - {one["path"] for one in files})
            self._send_json([*files, *({"type": "directory", "path": one, "size": 0, "oid": "0"} for one in inner)])

    def _describe(self, name: str, content: bytes) -> dict[str, Any]:
        size = self.hub.announced_bytes.get(name, len(content))
        described: dict[str, Any] = {"rfilename": name, "size": size, "blobId": git_id(content)}
        if name.endswith(LARGE_SUFFIXES):
            described["lfs"] = {"sha256": blob_name(name, content), "size": size, "pointerSize": 134}
        return described

    def _send_file(self, rest: str, start: int) -> None:
        model_id, _, rest = rest.partition("/resolve/")
        commit, _, name = rest.partition("/")
        if self._fails(name):
            return
        files = self._find(model_id, commit)
        if files is None:
            return
        if model_id in self.hub.gated and self.headers.get("Authorization") is None:
            self._refuse(401, "GatedRepo", "Access to this model is restricted")
        elif name not in files:
            self._refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        elif name.endswith(LARGE_SUFFIXES):
            digest, size = blob_name(name, files[name]), str(len(files[name]))
            location = f"{self.hub.large_address}/large/{model_id}/{commit}/{name}?Signature=secret"
            headers = {
                "Location": location,
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{digest}"',
                "X-Linked-Size": size,
            }
            self._send(302, b"", headers)
        else:
            headers = {"X-Repo-Commit": commit, "ETag": f'"{git_id(files[name])}"'}
            self._send_content(name, files[name], start, headers)

    def _send_large(self, rest: str, start: int) -> None:
        for model_id, commits in self.hub.models.items():
            for commit, files in commits.items():
                name = rest.removeprefix(f"{model_id}/{commit}/")
                if name in files:
                    self._send_content(name, files[name], start, {"ETag": '"of the content network"'})
                    return
        self._send(404, b"")

    def _send_content(self, name: str, content: bytes, start: int, headers: dict[str, str]) -> None:
        content = self.hub.served_instead.get(name, content)
        headers = {**headers, "Accept-Ranges": "bytes"}
        status = 200
        if "Range" in self.headers and not self.hub.ignores_ranges:
            if start >= len(content):
                self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
                return
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(content) - 1}/{len(content)}"
            content = content[start:]
        self._start(status, len(content), headers)
        if self.command == "HEAD":
            return
        cut = self.hub.cuts[name].pop(0) if self.hub.cuts.get(name) else None
        stall = self.hub.stalls.get(name)
        end = min(len(content), *(limit for limit in (cut, stall) if limit is not None), len(content))
        for offset in range(0, end, _BLOCK_BYTES):
            block = content[offset : min(offset + _BLOCK_BYTES, end)]
            self.wfile.write(block)
            self.hub.served[name] += len(block)
        if stall is not None and end < len(content):
            self.hub.closing.wait()
        self.close_connection = self.close_connection or end < len(content)

    def _fails(self, name: str | None) -> bool:
        for fault in self.hub.faults:
            if fault.name == name and fault.times > 0:
                fault.times -= 1
                self._send(fault.status, b"{}", fault.headers)
                return True
        return False

    def _refuse(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        named = {"X-Error-Code": code} if code else {}
        self._send(status, b"", {**named, "X-Error-Message": message, **(headers or {})})

    def _send_json(self, document: Any) -> None:
        self._send(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._start(status, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _start(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(key, value)
        self.end_headers()


def _as_tree_entry(described: dict[str, Any]) -> dict[str, Any]:
    """A file as `tree` describes it, from how `siblings` do."""
    entry = {"type": "file", "path": described["rfilename"], "size": described["size"], "oid": described["blobId"]}
    if lfs := described.get("lfs"):
        entry["lfs"] = {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": lfs["pointerSize"]}
    return entry
