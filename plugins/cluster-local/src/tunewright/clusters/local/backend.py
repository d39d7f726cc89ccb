"""Cluster `local`: starts supervisors, reads what they wrote, and asks them to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from tunewright.clusters.local.options import LocalOptions
from tunewright.clusters.local.plan import PLAN_FILE, plan_process
from tunewright.clusters.local.state_directory import StateDirectory
from tunewright.clusters.local.states import is_afar, read_status, seen_from_afar, without_supervisor
from tunewright.contracts.errors import InvalidExperiment, SubmissionRefused, Unavailable
from tunewright.contracts.jobs import JobHandle, JobSpec, SubmissionPlan
from tunewright.contracts.preflight import Finding, Severity
from tunewright.contracts.secret_values import read_secrets
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import JobState, JobStatus

_START_TIMEOUT_SECONDS = 30.0
_FOLLOW_PAUSE_SECONDS = 0.05
_PIECE_BYTES = 1 << 16


class LocalCluster:
    """See `tunewright.contracts.clusters.Cluster` for what each verb promises."""

    @staticmethod
    def supervisor_source() -> str:
        """The program that runs a job. A copy of it goes into each state directory."""
        return resources.files(__package__).joinpath("supervisor.py").read_text(encoding="utf-8")

    def check(self) -> Sequence[Finding]:
        """Only Linux tells enough about processes. Without a control group, memory is watched instead of bounded."""
        if not sys.platform.startswith("linux"):
            return (Finding(code="local-needs-linux", message=f"cluster `local` needs Linux, this is {sys.platform}"),)
        from tunewright.clusters.local.supervisor import group_parents

        if any(os.access(parent, os.W_OK) for parent in group_parents()):
            return ()
        message = "no memory control group can be made here: `memory_gib` is watched five times a second instead"
        return (Finding(code="local-no-control-group", severity=Severity.INFO, message=message),)

    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        """One JSON file: what the supervisor gets."""
        assert isinstance(options, LocalOptions)
        return plan_process(job, options)

    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        """Start a supervisor, or find the one that `key` has. The supervisors' own lock decides between two.

        A submission that was cut short left no `state.json`: it is made anew in the same place.
        """
        process = json.loads(plan.text_of(PLAN_FILE))
        directory = StateDirectory.of(Path(process["run_dir"]), key)
        document = directory.document() or self._start(directory, plan, process)
        pid = (document.get("supervisor") or ["?"])[0]
        return JobHandle(cluster="local", native_id=str(pid), data=str(directory.path))

    def _start(self, directory: StateDirectory, plan: SubmissionPlan, process: Mapping[str, Any]) -> dict[str, Any]:
        run_dir = Path(process["run_dir"])
        secrets = read_secrets(process["secrets"], run_dir)
        try:
            directory.path.mkdir(parents=True, exist_ok=True)
            directory.write(PLAN_FILE, plan.text_of(PLAN_FILE))
            directory.write("supervisor.py", self.supervisor_source())
        except OSError as error:
            raise SubmissionRefused(f"cluster `local` cannot write to {directory.path}: {error.strerror}") from None
        return _start_supervisor(directory, secrets, run_dir)

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """From each job's `state.json`; a supervisor that is gone without a last word took its job with it."""
        return {handle: _status(handle) for handle in handles}

    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        """The job's standard output and error, in the order they were written, over all attempts."""
        if replica != 0:
            raise InvalidExperiment(f"--replica {replica}: cluster `local` runs one node; only 0 is allowed")
        log = StateDirectory(Path(handle.data)).log() if handle.data else None
        return _pieces(log, handle, follow, since) if log is not None else iter(())

    def stop(self, handle: JobHandle) -> None:
        """Leave a note for the supervisor and wake it; where it is gone, end what is left of the tree."""
        if _status(handle).state.is_terminal:
            return
        directory = StateDirectory(Path(handle.data))
        try:
            directory.write("stop", "")
        except OSError as error:
            raise Unavailable(f"cannot ask the job to stop in {directory.path}: {error.strerror}") from None
        # The note alone does it, within a fifth of a second; the signal makes it quicker.
        document, is_supervised = directory.look()
        if document and is_supervised:
            from tunewright.clusters.local.strays import signal_supervisor

            signal_supervisor(document, signal.SIGUSR1)


def _start_supervisor(directory: StateDirectory, secrets: Mapping[str, str], run_dir: Path) -> dict[str, Any]:
    """Start the copy of the supervisor, detached, with the machine's own Python and nothing of our environment."""
    from tunewright.clusters.local.supervisor import STARTED, TAKEN

    with (directory.path / "supervisor.log").open("ab") as log:
        starter = subprocess.Popen(
            [*_interpreter(), str(directory.path / "supervisor.py"), str(directory.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=run_dir, env={}, start_new_session=True,
        )  # fmt: skip
    with starter:
        answer = _talk(starter, json.dumps(secrets).encode() + b"\n")
    document = directory.document() if answer == STARTED else _wait_for_state(directory) if answer == TAKEN else None
    if document is None:
        complaint = directory.complaint() or "it wrote nothing"
        raise SubmissionRefused(f"the supervisor in {directory.path} did not start: {complaint}")
    return document


def _interpreter() -> tuple[str, ...]:
    """The machine's own Python: it stays when our PEX or virtual environment goes. Without `site` it starts sooner."""
    python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    return (python, "-I", "-S", "-X", "utf8")


def _talk(starter: subprocess.Popen[bytes], text: bytes) -> bytes:
    try:
        return starter.communicate(text, timeout=_START_TIMEOUT_SECONDS)[0]
    except subprocess.TimeoutExpired:
        starter.kill()
        return b""


def _wait_for_state(directory: StateDirectory) -> dict[str, Any] | None:
    """What the supervisor of a faster submitter writes."""
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while (document := directory.document()) is None and time.monotonic() < deadline:
        time.sleep(0.005)
    return document


def _status(handle: JobHandle) -> JobStatus:
    directory = StateDirectory(Path(handle.data))
    document, is_supervised = directory.look() if handle.data else (None, False)
    if document is None:
        if is_supervised:
            return JobStatus(state=JobState.PENDING, message="its supervisor is just starting")
        return JobStatus(state=JobState.NOT_FOUND, message=f"no job in `{handle.data}`")
    status = read_status(document)
    if is_supervised or status.state.is_terminal:
        return status
    from tunewright.clusters.local.strays import end_strays
    from tunewright.clusters.local.supervisor import this_place

    if is_afar(document, this_place()):
        return seen_from_afar(status, document["place"]["host"])
    end_strays(document)
    return without_supervisor(status, directory.complaint())


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
        while piece := file.read(_PIECE_BYTES):
            yield piece
