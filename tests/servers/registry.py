"""A real registry on a loopback port, and a way to it that can be cut: Debian's `docker-registry`."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers.programs import free_port, need_program, running

USER, PASSWORD = "tester", "open sesame"
_USERS = f"{USER}:$2b$05$/03B30eimuoGuHSUkmK.RuxxeCNjDcgTI2b.mhPJy7zWkr3iGYcVm\n"

_MANIFESTS = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json"
_CONFIG = """version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {directory}/storage}}
  delete: {{enabled: true}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}"""
_AUTH = "auth: {{htpasswd: {{realm: test, path: {directory}/users}}}}\n"
_PIECE_BYTES = 1 << 16


@dataclass(frozen=True)
class Registry:
    """A registry that runs."""

    port: int
    directory: Path
    """What it stores, its configuration and its log."""

    asks_password: bool = False

    @property
    def address(self) -> str:
        """As it stands before an image's name. Docker trusts it without TLS."""
        return f"127.0.0.1:{self.port}"

    def tags(self, repository: str) -> list[str]:
        """The tags of a repository, empty where there is none of that name."""
        status, _, body = self.ask("GET", f"/v2/{repository}/tags/list")
        return sorted(json.loads(body)["tags"] or []) if status == 200 else []

    def catalog(self) -> list[str]:
        """Every repository."""
        names: list[str] = json.loads(self.ask("GET", "/v2/_catalog")[2])["repositories"]
        return names

    def digest(self, repository: str, tag: str) -> str:
        """What the registry calls the content of a tag."""
        status, headers, _ = self.ask("HEAD", f"/v2/{repository}/manifests/{tag}")
        assert status == 200, f"no {repository}:{tag}: {status}"
        return headers["docker-content-digest"]

    def manifest(self, repository: str, tag: str) -> dict[str, Any]:
        """What a tag is made of."""
        document: dict[str, Any] = json.loads(self.ask("GET", f"/v2/{repository}/manifests/{tag}")[2])
        return document

    def put_manifest(self, repository: str, tag: str, source_tag: str) -> None:
        """Give the content of one tag another, as anybody may who has access."""
        _, headers, body = self.ask("GET", f"/v2/{repository}/manifests/{source_tag}")
        path, kind = f"/v2/{repository}/manifests/{tag}", {"Content-Type": headers["content-type"]}
        assert self.ask("PUT", path, body, kind)[0] == 201

    def ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by their names in small letters, and body of an answer."""
        sent = {"Accept": _MANIFESTS, **(headers or {})}
        if self.asks_password:
            sent["Authorization"] = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()


@contextmanager
def running_registry(
    directory: Path, *, asks_password: bool = False, port: int = 0, enter: Sequence[str] = ()
) -> Iterator[Registry]:
    """A registry that stores below `directory`. `enter`: the command that enters another network, where it listens.

    Another one on the same directory and port has the same images under the same names.
    """
    program = need_program("docker-registry", "docker-registry")
    registry = Registry(port or free_port(), directory, asks_password)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "users").write_text(_USERS)
    auth = _AUTH.format(directory=directory) if asks_password else ""
    config = directory / f"config-{registry.port}.yml"
    config.write_text(_CONFIG.format(directory=directory, port=registry.port, auth=auth))

    def is_ready() -> bool:
        if enter:  # this process is not in that network
            return "listening on" in log.read_text()
        try:
            return registry.ask("GET", "/v2/")[0] == 200
        except OSError:
            return False

    log = directory / f"registry-{'elsewhere' if enter else registry.port}.log"
    if enter:
        config.write_text(config.read_text().replace("level: warn", "level: info"))
    with running([*enter, program, "serve", str(config)], log, is_ready):
        yield registry


@dataclass
class Gate:
    """A way to a server that counts what goes over, and may refuse or be cut."""

    to_port: int
    port: int = 0
    sent_bytes: int = 0
    """Towards the server, of all connections."""

    connections: int = 0
    """Opened so far, refused ones included."""

    refuses: int = 0
    """So many of the next connections are closed at once."""

    cuts: int = 0
    """So many connections are closed once they have sent `cut_after_bytes`."""

    cut_after_bytes: int = 0

    closes_at: bytes = b""
    """A connection that sends this is closed before the server gets it. Empty: none is."""

    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def address(self) -> str:
        """As it stands before an image's name."""
        return f"127.0.0.1:{self.port}"

    def serve(self, listener: socket.socket) -> None:
        """Take connections until the listener is closed."""
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connected, args=(client,), daemon=True).start()

    def _connected(self, client: socket.socket) -> None:
        with self.lock:
            self.connections += 1
            is_refused = self.refuses > 0
            self.refuses -= is_refused
        with client:
            if is_refused:
                return
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.to_port), 10) as server:
                server.settimeout(None)
                back = threading.Thread(target=self._copy, args=(server, client, False), daemon=True)
                back.start()
                self._copy(client, server, True)
                back.join(10)

    def _is_cut(self, sent_bytes: int, copied_bytes: int) -> bool:
        with self.lock:
            self.sent_bytes += sent_bytes
            is_cut = self.cuts > 0 and copied_bytes >= self.cut_after_bytes
            self.cuts -= is_cut
            return is_cut

    def _copy(self, source: socket.socket, target: socket.socket, is_upwards: bool) -> None:
        copied = 0
        with suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                if is_upwards and self.closes_at and self.closes_at in piece:
                    break
                target.sendall(piece)
                copied += len(piece)
                if is_upwards and self._is_cut(len(piece), copied):
                    break
        for one in (source, target):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def damaged(
        self, *, refuses: int = 0, cuts: int = 0, cut_after_bytes: int = 0, closes_at: bytes = b""
    ) -> Iterator[None]:
        """The way is as told, and afterwards as it was."""
        self.refuses, self.cuts, self.cut_after_bytes, self.closes_at = refuses, cuts, cut_after_bytes, closes_at
        try:
            yield
        finally:
            self.refuses, self.cuts, self.cut_after_bytes, self.closes_at = 0, 0, 0, b""


@contextmanager
def open_gate(to_port: int) -> Iterator[Gate]:
    """A gate on a loopback port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gate = Gate(to_port, listener.getsockname()[1])
        thread = threading.Thread(target=gate.serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield gate
        finally:
            listener.shutdown(socket.SHUT_RDWR)
