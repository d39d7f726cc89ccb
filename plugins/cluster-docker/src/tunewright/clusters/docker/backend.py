"""Cluster `docker`: starts supervisors, reads what they wrote, asks them to stop, and replaces them where they died."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.clusters.docker.options import DockerOptions
from tunewright.clusters.docker.plan import PLAN_FILE, plan_containers
from tunewright.clusters.docker.state_directory import StateDirectory
from tunewright.clusters.docker.states import is_afar, read_status, seen_from_afar, without_supervisor
from tunewright.contracts.errors import InvalidExperiment, Unavailable
from tunewright.contracts.jobs import JobHandle, JobSpec, SubmissionPlan
from tunewright.contracts.preflight import Finding
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import JobState, JobStatus

_FOLLOW_PAUSE_SECONDS = 0.05
_PIECE_BYTES = 1 << 16
_CHECK_SECONDS = 3.0


class DockerCluster:
    """See `tunewright.contracts.clusters.Cluster` for what each verb promises."""

    def check(self) -> Sequence[Finding]:
        """Whether a daemon answers, and whether we may ask it."""
        from tunewright.clusters.docker.daemon import docker_host
        from tunewright.clusters.docker.supervision.engine import Engine

        host = docker_host()
        try:
            Engine(host, _CHECK_SECONDS).ping()
        except ValueError as error:
            hint = "the run's files are mounted: the daemon must be this machine's"
            return (Finding(code="docker-host-unsupported", message=f"DOCKER_HOST {error}", hint=hint),)
        except PermissionError:
            message = f"this user may not use the Docker daemon at {host}"
            hint = "add the user to the group `docker` and log in again, or use a rootless daemon"
            return (Finding(code="docker-permission-denied", message=message, hint=hint),)
        except OSError as error:
            message = f"no Docker daemon answers at {host} (DOCKER_HOST): {error.strerror or error}"
            hint = "start it (`systemctl start docker`), or set DOCKER_HOST"
            return (Finding(code="docker-daemon-unreachable", message=message, hint=hint),)
        return ()

    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        """A file for each container, and one for the supervisor."""
        assert isinstance(options, DockerOptions)
        return plan_containers(job, options)

    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        """Start a supervisor, or find what `key` has. The supervisors' own lock decides between two.

        A submission that was cut short left no `state.json`: it is made anew in the same place.
        """
        import json

        from tunewright.clusters.docker.submission import begin
        from tunewright.clusters.docker.supervision.containers import job_id

        job = json.loads(plan.text_of(PLAN_FILE))
        directory = StateDirectory.of(Path(job["run_dir"]), key)
        identity = job_id(job["run"], job["run_dir"], key)
        if not directory.has_begun():
            begin(directory, plan, job, {"id": identity, "key": key})
        return JobHandle(cluster="docker", native_id=identity, data=str(directory.path))

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """From each job's `state.json`. A supervisor that was killed is replaced: its containers may still run."""
        return {handle: _status(handle) for handle in handles}

    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        """What node `replica` wrote, output and errors in order, over all attempts."""
        directory = StateDirectory(Path(handle.data)) if handle.data else None
        plan = directory.plan() if directory else None
        if plan is None:
            return iter(())
        if not 0 <= replica < len(plan["logs"]):
            allowed = "only 0 is allowed" if len(plan["logs"]) == 1 else f"0 to {len(plan['logs']) - 1} are allowed"
            raise InvalidExperiment(f"--replica {replica}: the job has {len(plan['logs'])} node(s); {allowed}")
        return _pieces(Path(plan["logs"][replica]), handle, follow, since)

    def stop(self, handle: JobHandle) -> None:
        """Leave a note for the supervisor, who looks for it five times a second."""
        if _status(handle).state.is_terminal:
            return
        directory = StateDirectory(Path(handle.data))
        try:
            directory.write("stop", b"")
        except OSError as error:
            raise Unavailable(f"cannot ask the job to stop in {directory.path}: {error.strerror}") from None


def _status(handle: JobHandle) -> JobStatus:
    directory = StateDirectory(Path(handle.data))
    document, is_supervised = directory.look() if handle.data else (None, False)
    if document is None:
        if is_supervised:
            return JobStatus(state=JobState.PENDING, message="its supervisor is just starting")
        return JobStatus(state=JobState.NOT_FOUND, message=f"no job in `{handle.data}`")
    status = read_status(document)
    if is_supervised or status.state.is_terminal or "containers" not in document:
        return status
    return _status_of_orphan(directory, document, status)


def _status_of_orphan(directory: StateDirectory, document: Mapping[str, Any], status: JobStatus) -> JobStatus:
    from tunewright.clusters.docker.submission import revive
    from tunewright.clusters.docker.supervision.record import this_place

    if is_afar(document, this_place()):
        return seen_from_afar(status, document["place"]["host"])
    problem = revive(directory)
    if not problem:
        return read_status(directory.document() or document)
    return without_supervisor(status, _words_of(directory, document), problem)


def _words_of(directory: StateDirectory, document: Mapping[str, Any]) -> list[str]:
    """What Docker says of the job's containers; nothing where it cannot be asked."""
    from tunewright.clusters.docker.supervision.engine import DaemonGoneError, DockerError, Engine

    try:
        engine = Engine((directory.known() or {})["host"], _CHECK_SECONDS)
        states = [engine.state(container) for container in document["containers"]]
    except (DaemonGoneError, DockerError, KeyError):
        return []
    return [str(state["Status"]) if state else "gone" for state in states]


def _pieces(path: Path, handle: JobHandle, follow: bool, since: int) -> Iterator[bytes]:
    offset = since
    while True:
        # Asked before reading: what was written before the end is read after it was known.
        has_ended = _status(handle).state.is_terminal
        for piece in _bytes_from(path, offset):
            offset += len(piece)
            yield piece
        if not follow or has_ended:
            return
        time.sleep(_FOLLOW_PAUSE_SECONDS)


def _bytes_from(path: Path, offset: int) -> Iterator[bytes]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(offset)
        while piece := os.read(file.fileno(), _PIECE_BYTES):
            yield piece
