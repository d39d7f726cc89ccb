"""A pod's container on this machine's Docker: made, heard byte by byte, told to end, asked how it ended."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLUSTER_LABEL = "ai.tunewright.test-cluster"


@dataclass(frozen=True)
class Wanted:
    """What a container is made of."""

    image: str
    command: Sequence[str]
    variables: Mapping[str, str]
    hostname: str
    user: str | None = None
    memory_bytes: int | None = None
    shm_bytes: int | None = None
    binds: Sequence[str] = field(default=())
    network: str | None = None
    names: Sequence[str] = field(default=())


class ContainerError(Exception):
    """Docker cannot make or start it: its words."""


class Machine:
    """This machine's Docker, for one cluster of the tests."""

    def __init__(self, cluster: str) -> None:
        import docker

        self.cluster = cluster
        # A connection for each thread that waits for a container at a time.
        self._api: Any = docker.APIClient(timeout=120, num_pools=64, max_pool_size=64)
        self._network_lock = threading.Lock()
        self._network = ""

    def has_image(self, name: str) -> bool:
        """Whether the image is here. Nothing is fetched."""
        from docker.errors import APIError

        try:
            self._api.inspect_image(name)
        except APIError:
            return False
        return True

    def network(self) -> str:
        """The network on which pods find each other, made when it is first needed."""
        with self._network_lock:
            if not self._network:
                labels = {CLUSTER_LABEL: self.cluster}
                self._network = self._api.create_network(f"tunewright-{self.cluster}", driver="bridge", labels=labels)[
                    "Id"
                ]
            return self._network

    def create(self, wanted: Wanted) -> str:
        """A container that has not started. Raises ContainerError."""
        from docker.errors import APIError

        host: dict[str, Any] = {
            "Binds": list(wanted.binds),
            "NetworkMode": wanted.network or "none",
            "LogConfig": {"Type": "none"},
        }
        # A name that is not there yet is asked for elsewhere by Docker: nobody there answers, and that at once.
        host |= {"Dns": ["127.0.0.1"], "DnsOptions": ["timeout:1", "attempts:1"]}
        if wanted.memory_bytes:
            host |= {"Memory": wanted.memory_bytes, "MemorySwap": wanted.memory_bytes}
        if wanted.shm_bytes:
            host["ShmSize"] = wanted.shm_bytes
        body: dict[str, Any] = {
            "Image": wanted.image,
            "Entrypoint": list(wanted.command),
            "Cmd": [],
            "Env": [f"{name}={value}" for name, value in wanted.variables.items()],
            "Hostname": wanted.hostname[:63],
            "Labels": {CLUSTER_LABEL: self.cluster},
            "HostConfig": host,
        }
        if wanted.user:
            body["User"] = wanted.user
        if wanted.network:
            body["NetworkingConfig"] = {"EndpointsConfig": {wanted.network: {"Aliases": list(wanted.names)}}}
        try:
            return str(self._api.create_container_from_config(body)["Id"])
        except APIError as error:
            raise ContainerError(str(error.explanation or error)) from None

    def start(self, container: str, log: Path) -> threading.Thread:
        """Start it; a thread writes to `log` what it writes, until its end. Raises ContainerError."""
        from docker.errors import APIError

        heard = self._api.attach(container, stdout=True, stderr=True, stream=True)
        writer = threading.Thread(target=_write, args=(heard, log), daemon=True)
        log.touch()
        writer.start()
        try:
            self._api.start(container)
        except APIError as error:
            raise ContainerError(str(error.explanation or error)) from None
        return writer

    def wait(self, container: str) -> tuple[int, bool]:
        """Its exit code, once it has ended, and whether it ran out of memory."""
        self._api.wait(container, timeout=None)
        state = self._api.inspect_container(container)["State"]
        return int(state["ExitCode"]), bool(state["OOMKilled"])

    def stop(self, container: str, grace_seconds: int) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        with contextlib.suppress(Exception):
            self._api.stop(container, timeout=grace_seconds)

    def kill(self, container: str) -> None:
        """SIGKILL."""
        with contextlib.suppress(Exception):
            self._api.kill(container)

    def remove(self, container: str) -> None:
        """Remove it, running or not."""
        with contextlib.suppress(Exception):
            self._api.remove_container(container, force=True, v=True)

    def sweep(self) -> None:
        """Remove every container and network of this cluster."""
        label = {"label": f"{CLUSTER_LABEL}={self.cluster}"}
        for container in self._api.containers(all=True, filters=label):
            self.remove(container["Id"])
        for network in self._api.networks(filters=label):
            with contextlib.suppress(Exception):
                self._api.remove_network(network["Id"])
        self._api.close()


def _write(heard: Any, log: Path) -> None:
    with log.open("ab", buffering=0) as file, contextlib.suppress(Exception):
        for piece in heard:
            file.write(piece)
