"""What a runner is told of a job to start, and what it tells of the job's end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

STOP_GRACE_SECONDS = 10.0
"""Between SIGTERM and SIGKILL; what Beaker gives is not known from its client."""


@dataclass(frozen=True)
class Mounted:
    """A directory or file of this machine at a path of the task."""

    source: Path
    target: str
    read_only: bool


@dataclass(frozen=True)
class Launch:
    """One job, ready to start."""

    job_id: str
    image: str
    """A reference of Docker's."""

    command: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    mounts: tuple[Mounted, ...]
    memory_bytes: int | None
    shared_memory_bytes: int | None
    cpu_count: float | None
    host_networking: bool


class Phase(Enum):
    """Where a job is on its node."""

    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class Report:
    """What a runner knows of a job."""

    phase: Phase
    exit_code: int | None = None
    """As a shell has it: 128 and the signal's number for a task that a signal ended."""

    out_of_memory: bool = False
    problem: str = ""
    """Why it never started, or why nothing is known of it."""


class Runner(Protocol):
    """What really runs tasks."""

    grace_seconds: float

    def start(self, launch: Launch) -> None:
        """Begin to start a job; `report` tells how it went."""

    def report(self, job_id: str) -> Report:
        """Where the job is. Reports of jobs from before the server was restarted are kept."""

    def stop(self, job_id: str) -> None:
        """SIGTERM, and SIGKILL to what is left after the grace. Nothing for a job that has ended."""

    def kill(self, job_id: str) -> None:
        """SIGKILL to all of it at once."""

    def log_path(self, job_id: str) -> Path:
        """Its log, in the form of `log_file`."""

    def close(self) -> None:
        """Kill what still runs."""
