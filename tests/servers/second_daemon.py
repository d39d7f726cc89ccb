"""An empty Docker daemon in namespaces of its own: no bridge, no firewall, nothing of the machine's is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers.docker_engine import need_docker
from servers.programs import need_program, refuse, running

_LONGEST_SOCKET_PATH = 107
_START = """
import ctypes, fcntl, os, socket, struct, sys
data, disk_bytes, *command = sys.argv[1:]
with socket.socket() as any_socket:  # a new network has its loopback down: SIOCSIFFLAGS, IFF_UP
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"tmpfs", data.encode(), b"tmpfs", 0, f"size={disk_bytes}".encode()) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
os.execv(command[0], command)
"""
"""Runs inside the namespaces, before the daemon does."""


@dataclass(frozen=True)
class SecondDaemon:
    """A daemon that runs."""

    host: str
    """For DOCKER_HOST."""

    directory: Path
    process_id: int
    """Of the daemon, as this machine sees it."""

    @property
    def enter_network(self) -> list[str]:
        """The command that starts what follows in the daemon's network."""
        return [need_program("nsenter", "util-linux"), f"--net=/proc/{self.process_id}/ns/net", "--"]


@contextmanager
def running_daemon(disk_bytes: int = 2**31) -> Iterator[SecondDaemon]:
    """An empty daemon with a disk of its own, in memory. It, its images and its mounts are gone afterwards."""
    need_docker()
    if os.geteuid() != 0:
        refuse("needs root, for namespaces of its own")
    with _short_directory() as directory:
        socket_path, data, log = directory / "s", directory / "data", directory / "log"
        data.mkdir()
        command = [
            need_program("unshare", "util-linux"),
            *("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
            *(need_program("python3", "python3"), "-c", _START, str(data), str(disk_bytes)),
            *(need_program("dockerd", "docker.io"), f"--host=unix://{socket_path}", f"--data-root={data}"),
            *(f"--exec-root={directory}/exec", f"--pidfile={directory}/pid"),
            *("--bridge=none", "--iptables=false", "--ip6tables=false"),
        ]
        with running(command, log, lambda: _answers(f"unix://{socket_path}"), main_process=_child_of) as process:
            yield SecondDaemon(f"unix://{socket_path}", directory, _child_of(process.pid))


def docker(host: str, *arguments: str, stdin: bytes | None = None) -> str:
    """What the client program says to `docker ARGUMENTS` of the daemon at `host`."""
    done = subprocess.run(
        [need_program("docker", "docker.io"), f"--host={host}", *arguments],
        input=stdin, capture_output=True, check=False, timeout=50,
    )  # fmt: skip
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr.decode(errors='replace')}"
    return done.stdout.decode().strip()


@contextmanager
def _short_directory() -> Iterator[Path]:
    """A socket's path may not be long, and a test's own directory is."""
    directory = Path(tempfile.mkdtemp(prefix="tw-"))
    assert len(str(directory / "s")) <= _LONGEST_SOCKET_PATH, f"TMPDIR is too long for a socket: {directory}"
    try:
        yield directory
        mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if f" {directory}/" in line]
        assert not mounts, f"the daemon left mounts: {mounts}"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _answers(host: str) -> bool:
    import docker as docker_py
    from docker.errors import DockerException

    try:
        client = docker_py.DockerClient(host, timeout=5)
        client.ping()
        client.close()
    except (DockerException, OSError):
        return False
    return True


def _child_of(process_id: int) -> int:
    """`unshare` waits for its only child, the daemon, which is the first process of its namespace."""
    children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
    return int(children[0]) if children else process_id
