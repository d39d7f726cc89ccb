"""`events.jsonl`: every change of state once, with time and cause, whoever sees it first."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from tunewright.contracts.file_locks import held
from tunewright.contracts.files import append_line
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobState, JobStatus
from tunewright.contracts.timestamps import utc_now
from tunewright.launcher.run_store import last_line

_KEYS = ("state", "cause", "exit_code", "signal", "attempt", "message")


def event_of(status: JobStatus) -> dict[str, Any]:
    """What makes one state differ from the next: no times, which a cluster may round differently each time."""
    document = status.to_document()
    return {key: document[key] for key in _KEYS}


def record_event(run: RunDir, status: JobStatus, is_new_submission: bool = False) -> None:
    """Append the state if it differs from the last one. Several launchers may watch one run: each change is kept once.

    A run of somebody else, which we may only read, is left as it is.
    """
    event = event_of(status)
    with contextlib.suppress(PermissionError), held(run.path / ".events.lock"):
        last = last_line(run.events)
        if is_new_submission or _follows(event, last):
            append_line(run.events, json.dumps({"time": utc_now(), **event}, ensure_ascii=False))


def _follows(event: dict[str, Any], last: dict[str, Any]) -> bool:
    """Whether `event` is news after `last`. A launcher that was slow to write must not bring an ended job back."""
    if not last:
        return True
    if {key: last.get(key) for key in _KEYS} == event:
        return False
    return not (has_ended(last) and not JobState(event["state"]).is_terminal)


def has_ended(event: dict[str, Any]) -> bool:
    """Whether the event is the end of a job. NOT_FOUND is not: a cluster may find the job again."""
    state = JobState.__members__.get(str(event.get("state")))
    return state is not None and state is not JobState.NOT_FOUND and state.is_terminal
