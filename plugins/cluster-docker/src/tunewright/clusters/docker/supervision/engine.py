"""The few calls of Docker's Engine API that a supervisor makes, with the standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from typing import Any
from urllib.parse import quote, urlencode

CALL_SECONDS = 120.0
DEFAULT_HOST = "unix:///var/run/docker.sock"


class DaemonGoneError(Exception):
    """Nobody answers, or nobody does any more."""


class DockerError(Exception):
    """The daemon's own words for what it did not do."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Engine:
    """A daemon at `host`: `unix:///path` or `tcp://name:port`, as in DOCKER_HOST. ValueError for any other.

    Each call has a connection of its own, so that threads need not know of each other.
    """

    def __init__(self, host: str = DEFAULT_HOST, call_seconds: float = CALL_SECONDS) -> None:
        scheme, _, place = host.partition("://")
        if scheme not in ("unix", "tcp") or not place:
            raise ValueError(f"must be unix:///path or tcp://name:port, got {host!r}")
        self.host = host
        self.call_seconds = call_seconds
        self._address: str | tuple[str, int] = place if scheme == "unix" else _tcp_address(place)

    def ping(self) -> None:
        """Whether a daemon answers. OSError says why it does not."""
        connection = self._connect(self.call_seconds)
        try:
            connection.request("GET", "/_ping")
            connection.getresponse().read()
        finally:
            connection.close()

    def create(self, name: str, body: dict[str, Any]) -> str:
        """Make a container; it does not run yet. Gives its id."""
        return str(self._call("POST", "/containers/create", {"name": name}, body)["Id"])

    def start(self, container: str) -> None:
        """Start a container."""
        self._call("POST", f"/containers/{container}/start")

    def kill(self, container: str, signal_name: str) -> None:
        """Signal a container's first process. One that does not run, or is gone, is passed over."""
        try:
            self._call("POST", f"/containers/{container}/kill", {"signal": signal_name})
        except DockerError as error:
            if error.status not in (404, 409, 500) or _is_other_trouble(error):
                raise

    def remove(self, container: str) -> None:
        """End a container and take it away, with the volumes it made. One that is gone is passed over."""
        try:
            self._call("DELETE", f"/containers/{container}", {"force": "1", "v": "1"})
        except DockerError as error:
            if error.status not in (404, 409):  # 409: its removal is under way
                raise

    def state(self, container: str) -> dict[str, Any] | None:
        """A container's `State`, or None where it is gone."""
        try:
            state: dict[str, Any] = self._call("GET", f"/containers/{container}/json")["State"]
        except DockerError as error:
            if error.status != 404:
                raise
            return None
        return state

    def wait(self, container: str) -> int | None:
        """Wait for a container's end, however long that takes. Its exit code, or None where it is gone."""
        try:
            answer = self._call("POST", f"/containers/{container}/wait", seconds=None)
        except DockerError as error:
            if error.status != 404:
                raise
            return None
        return int(answer["StatusCode"])

    def labelled(self, label: str) -> list[dict[str, Any]]:
        """Every container with the label, whatever its state."""
        filters = json.dumps({"label": [label]})
        found: list[dict[str, Any]] = self._call("GET", "/containers/json", {"all": "1", "filters": filters})
        return found

    def complaint(self, container: str) -> str:
        """What a container wrote to Docker's error stream."""
        query = {"stderr": "1"}
        try:
            data = self._ask("GET", f"/containers/{container}/logs", query, None, self.call_seconds)
        except DockerError:
            return ""
        return _demultiplexed(data).decode(errors="replace").strip()

    def create_network(self, body: dict[str, Any]) -> None:
        """Make a network, unless there is one of this name."""
        filters = json.dumps({"name": [f"^{body['Name']}$"]})
        if not self._call("GET", "/networks", {"filters": filters}):
            self._call("POST", "/networks/create", body={**body, "CheckDuplicate": True})

    def remove_network(self, name: str) -> None:
        """Take a network away; none by that name is no error."""
        try:
            self._call("DELETE", f"/networks/{quote(name)}")
        except DockerError as error:
            if error.status != 404:
                raise

    def open_input(self, container: str) -> socket.socket:
        """A connection to a container's standard input, which ends when this side does. Open it before the start."""
        connection = self._connect(self.call_seconds)
        try:
            connection.putrequest("POST", f"/containers/{container}/attach?stream=1&stdin=1")
            for name, value in (("Connection", "Upgrade"), ("Upgrade", "tcp"), ("Content-Length", "0")):
                connection.putheader(name, value)
            connection.endheaders()
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise DaemonGoneError(_words(error)) from error
        if answer.status != http.client.SWITCHING_PROTOCOLS:
            raise DockerError(answer.status, _message(answer.read()))
        assert connection.sock is not None
        return connection.sock

    def _call(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: dict[str, Any] | None = None,
        seconds: float | None = CALL_SECONDS,
    ) -> Any:
        limit = None if seconds is None else self.call_seconds
        data = self._ask(method, path, query, body, limit)
        return json.loads(data) if data.strip() else None

    def _ask(
        self, method: str, path: str, query: dict[str, str] | None, body: dict[str, Any] | None, seconds: float | None
    ) -> bytes:
        connection = self._connect(seconds)
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            text = json.dumps(body).encode() if body is not None else None
            connection.request(method, target, text, {"Content-Type": "application/json"} if text else {})
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise DaemonGoneError(_words(error)) from error
        finally:
            connection.close()
        if answer.status >= http.client.BAD_REQUEST:
            raise DockerError(answer.status, _message(data))
        return data

    def _connect(self, seconds: float | None) -> http.client.HTTPConnection:
        return _Connection(self._address, seconds)


class _Connection(http.client.HTTPConnection):
    """A connection to a path or to a name and port."""

    def __init__(self, address: str | tuple[str, int], seconds: float | None) -> None:
        super().__init__("docker")
        self.address = address
        self.seconds = seconds

    def connect(self) -> None:
        """Called by the first request."""
        family = socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(self.seconds)
        self.sock.connect(self.address)


def _tcp_address(place: str) -> tuple[str, int]:
    name, _, port = place.rstrip("/").rpartition(":")
    if not name or not port.isdigit():
        raise ValueError(f"must be tcp://name:port, got tcp://{place}")
    return name, int(port)


def _is_other_trouble(error: DockerError) -> bool:
    """Docker 20.10 says 500 where the container ended in this very moment."""
    quiet = ("is not running", "no such process", "already finished", "No such container", "not found")
    return error.status == 500 and not any(words in error.message for words in quiet)


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data.decode(errors="replace").strip() or "it did not say why"


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _demultiplexed(data: bytes) -> bytes:
    """Docker sends pieces, each after a header of eight bytes: its stream, three zeros, its length."""
    pieces, offset = [], 0
    while offset + 8 <= len(data):
        (length,) = struct.unpack(">I", data[offset + 4 : offset + 8])
        pieces.append(data[offset + 8 : offset + 8 + length])
        offset += 8 + length
    return b"".join(pieces)
