"""Specs that tests send, and waiting for what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from beaker import Beaker, BeakerExperimentSpec, BeakerRetrySpec, BeakerTaskSpec
from beaker import beaker_pb2 as pb2

T = TypeVar("T")

Status = pb2.WorkloadStatus
Code = pb2.CancelationCode

_WAIT_SECONDS = 50.0


def task(*script: str, name: str = "main", cluster: str = "ai2/cpus", **fields: Any) -> BeakerTaskSpec:
    """A task that runs a shell script, with the script's arguments."""
    return BeakerTaskSpec.new(name, cluster, docker_image="none", command=["sh", "-c", *script], **fields)


def experiment(*tasks: BeakerTaskSpec, retries: int | None = None, **fields: Any) -> BeakerExperimentSpec:
    """An experiment of these tasks."""
    retry = None if retries is None else BeakerRetrySpec(allowed_task_retries=retries)
    return BeakerExperimentSpec(tasks=list(tasks), retry=retry, **fields)


def wait_for(said: Callable[[], T | None], what: str) -> T:
    """What `said` returns, when it returns something."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        if found := said():
            return found
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {_WAIT_SECONDS} s")


def jobs_of(client: Beaker, workload: pb2.Workload, position: int = 0) -> list[pb2.Job]:
    """All jobs of a task, the first one first."""
    return list(reversed(list(client.job.list(task=workload.experiment.tasks[position]))))


def running_job(client: Beaker, workload: pb2.Workload, position: int = 0, number: int = 0) -> pb2.Job:
    """A job of a task, once it runs."""

    def found() -> pb2.Job | None:
        jobs = jobs_of(client, workload, position)[number:]
        return jobs[0] if jobs and jobs[0].status.status == Status.STATUS_RUNNING else None

    return wait_for(found, f"job {number} of task {position} runs")


def ended(client: Beaker, workload: pb2.Workload) -> pb2.Workload:
    """The workload, once it has ended."""

    def found() -> pb2.Workload | None:
        now = client.workload.get(workload.experiment.id)
        is_over = now.status in (Status.STATUS_SUCCEEDED, Status.STATUS_FAILED, Status.STATUS_CANCELED)
        return now if is_over else None

    return wait_for(found, "the workload ends")


def run(client: Beaker, spec: BeakerExperimentSpec) -> pb2.Job:
    """The last job of the first task, once all has ended."""
    return jobs_of(client, ended(client, client.experiment.create(spec=spec)))[-1]


def lines(client: Beaker, job: pb2.Job, **options: Any) -> list[bytes]:
    """The log of a job."""
    return [line.message for line in client.job.logs(job, **options)]


def last_line(client: Beaker, job: pb2.Job) -> bytes:
    """Of its log, once there is one."""
    return wait_for(lambda: lines(client, job)[-1:], "a line of the log")[0]


def shell_words(values: Sequence[str]) -> str:
    """A script that prints each variable on a line."""
    return "; ".join(f'echo "{value}=${value}"' for value in values)
