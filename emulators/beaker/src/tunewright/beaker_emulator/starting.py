"""Starts an emulator in a process of its own, for tests and for trying things."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_STOP_SECONDS = 20.0


class EmulatorFailed(Exception):
    """The emulator did not start, or refused what it was told."""


@dataclass(frozen=True)
class RunningEmulator:
    """One that listens."""

    agent_address: str
    rpc_address: str
    config_file: Path
    ca_file: Path
    state: Path
    user: str
    workspace: str
    pid: int

    @property
    def variables(self) -> dict[str, str]:
        """The environment in which the unmodified client talks to it: set before the client's process starts gRPC."""
        return {"BEAKER_CONFIG": str(self.config_file), "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(self.ca_file)}

    def preempt(self, job_id: str) -> None:
        """As the scheduler would for a job of higher priority."""
        self._ask(f"jobs/{job_id}/preempt")

    def lose_node(self, node: str) -> list[str]:
        """Lose a node, by id or hostname, and all that runs there. Returns the ids of its jobs."""
        return self._ask(f"nodes/{node}/lose")

    def return_node(self, node: str) -> None:
        """Give jobs to the node again."""
        self._ask(f"nodes/{node}/return")

    def _ask(self, what: str) -> list[str]:
        token = yaml.safe_load(self.config_file.read_text())["user_token"]
        request = urllib.request.Request(
            f"{self.agent_address}/emulator/{what}", method="POST", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                jobs: list[str] = json.load(response)["jobs"]
                return jobs
        except urllib.error.HTTPError as error:
            raise EmulatorFailed(json.load(error)["message"]) from error


@contextmanager
def running_emulator(
    state: Path, fleet: Path | None = None, runner: str = "process", options: Sequence[str] = ()
) -> Iterator[RunningEmulator]:
    """An emulator with its state in `state`. At the end it is stopped, and its jobs with it.

    `fleet`: a file as `--clusters` takes it. `options`: more of `serve`, as a command line has them.
    """
    chosen = ["--clusters", str(fleet)] if fleet is not None else []
    command = [sys.executable, "-m", "tunewright.beaker_emulator.cli", "serve", "--json", "--state", str(state)]
    command.append("--until-stdin-ends")
    state.mkdir(parents=True, exist_ok=True)
    with (state / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--runner", runner, *chosen, *options],
            stdout=subprocess.PIPE,
            stderr=log,
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
    try:
        yield _listening(process, state)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            pipe.close()


def _listening(process: subprocess.Popen[bytes], state: Path) -> RunningEmulator:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        said = (state / "server.log").read_text(errors="replace")[-2000:]
        raise EmulatorFailed(f"the emulator ended with {process.wait()}: {said}")
    document: dict[str, Any] = json.loads(line)
    return RunningEmulator(
        agent_address=document["agent_address"],
        rpc_address=document["rpc_address"],
        config_file=Path(document["config_file"]),
        ca_file=Path(document["ca_file"]),
        state=Path(document["state"]),
        user=document["user"],
        workspace=document["workspace"],
        pid=process.pid,
    )
