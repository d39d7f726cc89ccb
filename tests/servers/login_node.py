"""An SSH server of this machine, for tests that reach a login node: with keys of its own, on a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from servers.programs import free_port, need_program, refuse, running


@dataclass(frozen=True)
class LoginServer:
    """A running SSH server."""

    host: str
    """Where it is."""

    options: Sequence[str]
    """Arguments of `ssh` that lead to it."""


@contextmanager
def serve_login(variables: Mapping[str, str]) -> Iterator[LoginServer]:
    """An SSH server whose sessions have `variables`, until the block ends."""
    if os.getuid() != 0:
        refuse("needs root: an SSH server logs others in")
    server = need_program("sshd", "openssh-server")
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd's own, which its package makes at boot
    with tempfile.TemporaryDirectory(prefix="tw-ssh-") as name:
        directory, port = Path(name), free_port()
        for key in ("host_key", "user_key"):
            _make_key(directory / key)
        configuration = directory / "sshd_config"
        configuration.write_text(_configuration(directory, port, variables))
        log = directory / "sshd.log"
        with running([server, "-D", "-e", "-f", str(configuration)], log, lambda: _listens(port)):
            yield LoginServer("127.0.0.1", _ssh_options(directory, port))


def _make_key(path: Path) -> None:
    program = need_program("ssh-keygen", "openssh-client")
    subprocess.run([program, "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _configuration(directory: Path, port: int, variables: Mapping[str, str]) -> str:
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f"HostKey {directory}/host_key",
        f"AuthorizedKeysFile {directory}/user_key.pub",
        f"PidFile {directory}/sshd.pid",
        "StrictModes no",
        "UsePAM no",
        "PermitRootLogin yes",
        "PasswordAuthentication no",
        # A home without a `.bashrc`, which bash reads also where nobody types.
        "SetEnv " + " ".join(f"{name}={value}" for name, value in {"HOME": str(directory), **variables}.items()),
    ]
    return "\n".join(lines) + "\n"


def _ssh_options(directory: Path, port: int) -> Sequence[str]:
    # One connection for all: setting one up takes longer than what is asked.
    kept = ("ControlMaster=auto", f"ControlPath={directory}/kept", "ControlPersist=10")
    settings = (
        *kept,
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
        "IdentitiesOnly=yes",
    )
    return ("-p", str(port), "-i", str(directory / "user_key"), *(word for one in settings for word in ("-o", one)))


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
