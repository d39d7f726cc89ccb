"""From the protocol's messages, and the notes in a run's directory, to plain values that `states` judges."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from beaker import beaker_pb2 as pb2
from tunewright.clusters.beaker.handles import Place
from tunewright.clusters.beaker.service import Service, is_over, iso
from tunewright.clusters.beaker.states import Try, status_of
from tunewright.contracts.status import JobStatus

_PAUSE_SECONDS = 1.0


def read_status(service: Service, workload: pb2.Workload, place: Place | None) -> JobStatus:
    """The status of an experiment: a call for each of its nodes, none while it waits for its first start."""
    word = _name(pb2.WorkloadStatus, workload.status)
    tries = [] if word == "STATUS_SUBMITTED" else read_tries(service, workload, place)
    return status_of(word, tries, workload.experiment.canceled_for)


def read_tries(service: Service, workload: pb2.Workload, place: Place | None) -> list[Try]:
    """Every start of every node."""
    return [
        _read_try(job, task.system_details.replica_group_details.rank, _note(workload, job, place))
        for task in workload.experiment.tasks
        for job in service.jobs(task.id)
    ]


def lines_of_node(service: Service, experiment_id: str, rank: int, follow: bool) -> Iterator[bytes]:
    """What Beaker has of the log of a node, over all its starts. With `follow` those that are still to come too."""
    shown: set[str] = set()
    while (workload := service.workload(experiment_id)) is not None:
        has_ended = is_over(workload)
        for job in _jobs_of_node(service, workload, rank):
            if job.id not in shown and job.status.HasField("started"):
                shown.add(job.id)
                yield from service.log_lines(job, follow)
        if has_ended or not follow:
            return
        time.sleep(_PAUSE_SECONDS)


def _jobs_of_node(service: Service, workload: pb2.Workload, rank: int) -> Sequence[pb2.Job]:
    """The starts of one node, the first first."""
    tasks = [one for one in workload.experiment.tasks if one.system_details.replica_group_details.rank == rank]
    jobs = [job for task in tasks for job in service.jobs(task.id)]
    return sorted(jobs, key=lambda job: job.status.created.ToNanoseconds())


def _read_try(job: pb2.Job, rank: int, note: dict[str, Any]) -> Try:
    status = job.status
    ended = next((name for name in ("exited", "failed", "canceled", "finalized") if status.HasField(name)), None)
    is_canceled = status.HasField("canceled") or status.status == pb2.STATUS_CANCELED
    return Try(
        rank=rank,
        job_id=job.id,
        status="STATUS_CANCELED" if is_canceled else _name(pb2.WorkloadStatus, status.status),
        exit_code=status.exit_code if status.HasField("exit_code") else None,
        cancelation=_name(pb2.CancelationCode, status.canceled_code) if is_canceled else None,
        message=status.message or status.failed_scheduling_message,
        created_at=iso(status.created),
        started_at=iso(status.started) if status.HasField("started") else None,
        ended_at=iso(getattr(status, ended)) if ended else None,
        is_final=status.HasField("finalized"),
        is_out_of_memory=bool(note.get("out_of_memory")),
        complaint=str(note.get("complaint", "")),
    )


def _name(words: Any, number: int) -> str:
    """Beaker's word for a number. A newer server may have one that this client does not know."""
    return str(words.Name(number)) if number in words.values() else str(number)


def _note(workload: pb2.Workload, job: pb2.Job, place: Place | None) -> dict[str, Any]:
    """What the start program wrote of this start, where this machine sees the run's directory."""
    if place is None:
        return {}
    path = Path(place.run_dir) / "beaker" / workload.experiment.id / f"{job.id}.json"
    try:
        note = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}
