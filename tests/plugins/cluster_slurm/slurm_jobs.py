"""What the tests of cluster `slurm` share: jobs of small programs on a real Slurm."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers.slurm_cluster import SlurmCluster as RunningSlurm

from tunewright.clusters.slurm.backend import SlurmCluster
from tunewright.clusters.slurm.handles import JobPlace
from tunewright.clusters.slurm.options import SlurmOptions
from tunewright.contracts.jobs import JobHandle, JobSpec, Resources, SubmissionPlan
from tunewright.contracts.status import JobStatus

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
# Sleeps at first, and ends well when it was started again.
SLEEPS_AT_FIRST = """
import os, time
print("attempt", os.environ["TUNEWRIGHT_ATTEMPT"], flush=True)
time.sleep(600 if os.environ["TUNEWRIGHT_ATTEMPT"] == "0" else 0)
"""


@dataclass
class SlurmHome:
    """A directory with runs, and the Slurm they run on."""

    path: Path
    slurm: RunningSlurm
    handles: list[JobHandle] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)

    def job(self, script: str, *arguments: str, nodes: int = 1, **fields: Any) -> JobSpec:
        """A job of the nodes' Python, with a run directory of its own."""
        run = f"run-{len(list(self.path.glob('runs/*')))}"
        run_dir = self.path / "runs" / run
        run_dir.mkdir(parents=True)
        command = ("/usr/bin/env", "python3", "-I", "-S", "-c", script, *arguments)
        return JobSpec(run=run, run_dir=str(run_dir), command=command, resources=Resources(nodes=nodes), **fields)

    def submit(self, job: JobSpec, after: Sequence[JobHandle] | None = None, **options: Any) -> JobHandle:
        """Submit the job, under its run's name."""
        plan = plan_of(job, **{**self.options, **options})
        cluster = SlurmCluster()
        handle = cluster.submit(plan, job.run) if after is None else cluster.submit_after(plan, job.run, after)
        self.handles.append(handle)
        return handle

    def submit_array(self, jobs: Sequence[JobSpec], at_most: int | None, **options: Any) -> Sequence[JobHandle]:
        """Submit all as one array."""
        plan = SlurmCluster().plan_array(jobs, SlurmOptions(**options), at_most)
        handles = SlurmCluster().submit_array(plan, "sweep")
        self.handles.extend(handles)
        return handles

    def stop_all(self) -> None:
        """End what still runs, and wait for it: the next test wants the nodes."""
        for handle in self.handles:
            SlurmCluster().stop(handle)
        for handle in self.handles:
            wait(handle)


def plan_of(job: JobSpec, **options: Any) -> SubmissionPlan:
    """The job's plan."""
    return SlurmCluster().plan(job, SlurmOptions(**options))


def status(handle: JobHandle) -> JobStatus:
    """Its status now."""
    return SlurmCluster().status([handle])[handle]


def wait(handle: JobHandle, seconds: float = 60) -> JobStatus:
    """The job's last status."""
    eventually(lambda: status(handle).state.is_terminal, seconds, lambda: str(status(handle)))
    return status(handle)


def log(handle: JobHandle, replica: int = 0) -> bytes:
    """All the job wrote on one node."""
    return b"".join(SlurmCluster().logs(handle, replica))


def wait_for_log(handle: JobHandle, text: bytes, replica: int = 0, seconds: float = 60) -> None:
    """Until the log has `text` in it."""
    eventually(lambda: text in log(handle, replica), seconds, lambda: f"{log(handle, replica)!r} {status(handle)}")


def directory_of(handle: JobHandle) -> Path:
    """Where the submission keeps its files."""
    return Path(JobPlace.of(handle).directory)


def told(handle: JobHandle) -> dict[str, Any]:
    """What the batch program has written last."""
    document: dict[str, Any] = json.loads((directory_of(handle) / "state.json").read_text())
    return document


def eventually(is_so: Callable[[], object], seconds: float = 60, complaint: Callable[[], str] = str) -> None:
    """Wait until `is_so` is true."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not so after {seconds} seconds: {complaint()}"
        time.sleep(0.05)
