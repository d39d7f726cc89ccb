"""A Ray cluster of two nodes on loopback, in a process of its own that ends with the test, and without our code."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HOST = "127.0.0.2"
"""Of loopback, but not the one that Ray takes for the name of the machine and replaces by its address."""

_TRIES = 3
"""Ray gives a node 30 seconds to start, which nobody can change and a busy machine may need."""

_END_SECONDS = 30
_STORE_BYTES = 100 << 20


@dataclass(frozen=True)
class RayCluster:
    """A running cluster."""

    address: str
    """`HOST:PORT`, for RAY_ADDRESS."""

    pid: int
    """The process from which all of its processes come."""

    def processes_at(self, function: str) -> list[int]:
        """The processes on its nodes that are at `function` right now."""
        return [pid for pid in _processes_running(f"ray::{function}") if self.pid in _ancestors(pid)]


@contextmanager
def serve_ray() -> Iterator[RayCluster]:
    """Two nodes of one CPU each, until the block ends."""
    for tries_left in reversed(range(_TRIES)):
        with _started() as (cluster, complaint):
            assert cluster is not None or tries_left, f"Ray did not start: {complaint}"
            if cluster is not None:
                yield cluster
                return


@contextmanager
def _started() -> Iterator[tuple[RayCluster | None, str]]:
    """The nodes until the block ends, or None and why there are none."""
    # Paths of Ray's sockets are long, and may not be longer than 107 bytes: pytest's own directories are too deep.
    directory = tempfile.mkdtemp(prefix="ray-")
    foreign = [path for path in sys.path if not (Path(path) / "tunewright").is_dir()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(foreign), "PYTHONDONTWRITEBYTECODE": "1",
                   "RAY_TMPDIR": directory, "RAY_USAGE_STATS_ENABLED": "0"}  # fmt: skip
    environment.pop("RAY_ADDRESS", None)
    log = Path(directory) / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdin is not None and process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        yield (RayCluster(address, process.pid), "") if address else (None, log.read_text()[-2000:])
    finally:
        process.stdin.close()
        try:
            process.wait(_END_SECONDS)
        finally:
            process.kill()
            process.stdout.close()
            shutil.rmtree(directory, ignore_errors=True)


def _processes_running(title: str) -> Iterator[int]:
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and _read(path / "cmdline").startswith(title):
            yield int(path.name)


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        status = dict(line.split(":", 1) for line in _read(Path(f"/proc/{pid}/status")).splitlines())
        pid = int(status.get("PPid", "0"))
        yield pid


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:  # it has ended
        return ""


def _serve() -> None:
    """Start the nodes, tell the address, and end them when nobody holds our standard input any more."""
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": _STORE_BYTES, "node_ip_address": _HOST}
    cluster: Any = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    _serve()
