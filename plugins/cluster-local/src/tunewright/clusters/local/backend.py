"""Cluster `local`: starts supervisors, reads what they wrote, and asks them to stop."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.clusters.local.options import LocalOptions
from tunewright.clusters.local.plan import PLAN_FILE, plan_process
from tunewright.clusters.local.secrets import read_secrets
from tunewright.contracts.errors import InvalidExperiment, SubmissionRefused
from tunewright.contracts.files import write_text_atomically
from tunewright.contracts.jobs import JobHandle, JobSpec, SubmissionPlan
from tunewright.contracts.preflight import Finding
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import CauseKind, JobState, JobStatus

_START_TIMEOUT_SECONDS = 30.0
_STATUS_KEYS = ("state", "cause", "exit_code", "signal", "attempt", "started_at", "ended_at", "message")
_FOLLOW_PAUSE_SECONDS = 0.1


class LocalCluster:
    """See `tunewright.contracts.clusters.Cluster` for what each verb promises."""

    def check(self) -> Sequence[Finding]:
        """Only Linux tells enough about processes."""
        if not sys.platform.startswith("linux"):
            return (Finding(code="local-needs-linux", message=f"cluster `local` needs Linux, this is {sys.platform}"),)
        return ()

    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        """One JSON file: what the supervisor gets."""
        assert isinstance(options, LocalOptions)
        return plan_process(job, options)

    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        """Start a supervisor, or find the one that `key` has. The supervisors' own lock decides between two."""
        process = json.loads(plan.text_of(PLAN_FILE))
        directory = Path(process["run_dir"]) / "local" / key
        if not _state_of(directory):
            secrets = read_secrets(process["secrets"], Path(process["run_dir"]))
            directory.mkdir(parents=True, exist_ok=True)
            write_text_atomically(directory / PLAN_FILE, plan.text_of(PLAN_FILE))
            _start_supervisor(directory, secrets)
        state = _wait_for_state(directory)
        return JobHandle(cluster="local", native_id=str(state["supervisor"][0]), data=str(directory))

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """From each job's `state.json`; a supervisor that is gone without a last word took its job with it."""
        return {handle: _status(Path(handle.data)) for handle in handles}

    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        """The job's standard output and error, in the order they were written, over all attempts."""
        if replica != 0:
            raise InvalidExperiment(f"--replica {replica}: cluster `local` runs one node; 0 is allowed")
        return self._log_pieces(handle, follow, since)

    def _log_pieces(self, handle: JobHandle, follow: bool, since: int) -> Iterator[bytes]:
        path = _log_path(Path(handle.data))
        offset = since
        while True:
            # Asked before reading: what was written before the end is read after it was known.
            has_ended = _status(Path(handle.data)).state.is_terminal
            if path is not None and path.is_file():
                with path.open("rb") as file:
                    file.seek(offset)
                    while piece := file.read(1 << 16):
                        offset += len(piece)
                        yield piece
            if not follow or has_ended:
                return
            time.sleep(_FOLLOW_PAUSE_SECONDS)

    def stop(self, handle: JobHandle) -> None:
        """Leave a note for the supervisor and wake it; where it is gone, end what is left of the tree."""
        directory = Path(handle.data)
        state = _state_of(directory)
        if not state:
            return
        if _is_supervised(directory):
            write_text_atomically(directory / "stop", "")
            _signal(state["supervisor"], signal.SIGUSR1)
        else:
            _end_strays(directory)


def _start_supervisor(directory: Path, secrets: dict[str, str]) -> None:
    """Start the copy of the supervisor, detached, with the machine's own Python and nothing of our environment."""
    source = Path(__file__).with_name("supervisor.py").read_text()
    write_text_atomically(directory / "supervisor.py", source)
    interpreter = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    with (directory / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            [interpreter, "-I", str(directory / "supervisor.py"), str(directory)],
            stdin=subprocess.PIPE, stdout=log, stderr=log, cwd="/", env={"LANG": "C.UTF-8"}, start_new_session=True,
        )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(json.dumps(secrets).encode())
    process.stdin.close()
    process.returncode = 0  # it outlives us: nobody here waits for it


def _wait_for_state(directory: Path) -> dict[str, Any]:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        state = _state_of(directory)
        if state:
            return state
        time.sleep(0.005)
    log = (directory / "supervisor.log").read_text(errors="replace").strip()
    raise SubmissionRefused(f"the supervisor of {directory} did not start: {log[-500:] or 'it wrote nothing'}")


def _state_of(directory: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = json.loads((directory / "state.json").read_bytes())
    except (OSError, json.JSONDecodeError):
        return {}
    return state


def _status(directory: Path) -> JobStatus:
    supervised = _is_supervised(directory)  # asked first: a supervisor that ends in between has left its last word
    state = _state_of(directory)
    if not state:
        return JobStatus(state=JobState.NOT_FOUND, message=f"no job in {directory}")
    status = JobStatus.model_validate({key: state[key] for key in _STATUS_KEYS if state.get(key) is not None})
    if status.state.is_terminal or supervised:
        return status
    _end_strays(directory)
    return status.model_copy(
        update={
            "state": JobState.FAILED,
            "cause": CauseKind.NODE_LOST,
            "message": "the job's supervisor is gone: killed, or the machine was restarted",
        }
    )


def _is_supervised(directory: Path) -> bool:
    """Whether a supervisor lives: it holds the lock as long as it does."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _signal(process: Sequence[int], number: int) -> None:
    """Signal a process, if it is still the one that was written down and not a later one with its pid."""
    from tunewright.clusters.local.supervisor import start_time

    pid, started = process
    if start_time(pid) == started:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return


def _end_strays(directory: Path) -> None:
    """End what a killed supervisor left: every process that carries the job's key."""
    from tunewright.clusters.local.supervisor import has_key, processes, send

    send([pid for pid in processes() if has_key(pid, directory.name)], signal.SIGKILL)


def _log_path(directory: Path) -> Path | None:
    try:
        return Path(json.loads((directory / PLAN_FILE).read_bytes())["log"])
    except (OSError, json.JSONDecodeError):
        return None
