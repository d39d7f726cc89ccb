"""What the tests of cluster `docker` share: jobs of small programs, and looks behind the curtain."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servers.docker_engine import BASE_IMAGE

from tunewright.clusters.docker.backend import DockerCluster
from tunewright.clusters.docker.daemon import docker_host
from tunewright.clusters.docker.options import DockerOptions
from tunewright.clusters.docker.state_directory import StateDirectory
from tunewright.clusters.docker.supervision.containers import LABEL
from tunewright.contracts.jobs import JobHandle, JobSpec, Resources, SubmissionPlan
from tunewright.contracts.status import JobStatus

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
HELD = """
import os, time
print("up", flush=True)
while not os.path.exists("let-go"):
    time.sleep(0.02)
print("done")
"""
"""Runs until `let_go`."""

GREEDY = "x = b'x' * (400 << 20)"
# Sleeps at first, and ends well when it was started again.
SLEEPS_AT_FIRST = """
import os, time
attempt = os.environ["TUNEWRIGHT_ATTEMPT"]
print("attempt", attempt, flush=True)
time.sleep(600 if attempt == "0" else 0)
"""


def make_job(home: Path, script: str, *arguments: str, nodes: int = 1, **fields: Any) -> JobSpec:
    """A job of the image's Python, with a run directory of its own below `home`."""
    return make_command(home, "python3.11", "-I", "-S", "-c", script, *arguments, nodes=nodes, **fields)


def make_command(home: Path, *command: str, nodes: int = 1, **fields: Any) -> JobSpec:
    """A job that runs `command`."""
    run = f"run-{len(list(home.glob('runs/*')))}"
    (home / "runs" / run).mkdir(parents=True)
    return JobSpec(
        run=run, run_dir=str(home / "runs" / run), command=command, resources=Resources(nodes=nodes), **fields
    )


def make_plan(job: JobSpec, **options: Any) -> SubmissionPlan:
    """The job's plan."""
    return DockerCluster().plan(job, DockerOptions(**{"image": BASE_IMAGE, **options}))


def submit(job: JobSpec, **options: Any) -> JobHandle:
    """Submit the job, under its run's name."""
    return DockerCluster().submit(make_plan(job, **options), job.run)


def status(handle: JobHandle) -> JobStatus:
    """Its status now."""
    return DockerCluster().status([handle])[handle]


def document(handle: JobHandle) -> dict[str, Any]:
    """What the supervisor wrote last."""
    text: dict[str, Any] = json.loads(Path(handle.data, "state.json").read_text())
    return text


def eventually(is_so: Callable[[], object], seconds: float = 50) -> None:
    """Wait until `is_so` is true."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not so after {seconds} seconds"
        time.sleep(0.02)


def wait(handle: JobHandle) -> JobStatus:
    """The job's last status."""
    eventually(lambda: status(handle).state.is_terminal)
    return status(handle)


def log(handle: JobHandle, replica: int = 0) -> bytes:
    """All the job wrote on one node."""
    return b"".join(DockerCluster().logs(handle, replica))


def wait_for_line(handle: JobHandle, replica: int = 0) -> bytes:
    """The log, once it has a line."""
    eventually(lambda: b"\n" in log(handle, replica))
    return log(handle, replica)


@contextlib.contextmanager
def client() -> Iterator[DockerClient]:
    """The daemon, as a user's own tools ask it."""
    import docker

    client = docker.from_env(timeout=30)
    try:
        yield client
    finally:
        client.close()


def let_go(handle: JobHandle) -> None:
    """Let a job that is `HELD` come to its end."""
    (Path(handle.data).parents[1] / "let-go").touch()


def containers_of(handle: JobHandle) -> list[Container]:
    """The job's containers, running or not, by rank."""
    with client() as docker:
        found = docker.containers.list(
            all=True, ignore_removed=True, filters={"label": f"{LABEL}.id={handle.native_id}"}
        )
    return sorted(found, key=lambda container: str(container.name))


def kill_container(handle: JobHandle, rank: int = 0) -> None:
    """What `docker kill` does."""
    containers_of(handle)[rank].kill()


def left_in_docker(home: Path) -> list[str]:
    """Containers and networks of runs below `home`."""
    with client() as docker:
        objects = [
            *docker.containers.list(all=True, ignore_removed=True, filters={"label": f"{LABEL}.run_dir"}),
            *docker.networks.list(filters={"label": f"{LABEL}.run_dir"}),
        ]
        labels = [(one.name, one.attrs.get("Labels") or one.attrs["Config"]["Labels"]) for one in objects]
    return [str(name) for name, told in labels if Path(told[f"{LABEL}.run_dir"]).is_relative_to(home)]


def kill_supervisor(handle: JobHandle) -> None:
    """SIGKILL, and its end."""
    os.kill(document(handle)["supervisor"], 9)
    eventually(lambda: not StateDirectory(Path(handle.data)).is_supervised())


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def all_command_lines() -> bytes:
    """The command lines of everything that runs."""
    lines = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                lines.append(Path(f"/proc/{name}/cmdline").read_bytes())
    return b"\n".join(lines)


class Relay:
    """A daemon's socket in another place, which can go away and come back as a daemon does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._daemon = docker_host().removeprefix("unix://")
        self._connections: list[socket.socket] = []
        self.open()

    @property
    def host(self) -> str:
        """For DOCKER_HOST."""
        return f"unix://{self.path}"

    def open(self) -> None:
        """Answer."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Go away, and break every connection."""
        self.path.unlink(missing_ok=True)
        for connection in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._connections.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            far.connect(self._daemon)
            self._connections += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
