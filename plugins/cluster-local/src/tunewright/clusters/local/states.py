"""From what a supervisor wrote to a job's status. Pure: the thin module that reads the files is `backend`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tunewright.contracts.status import CauseKind, JobState, JobStatus

LOCAL_STATES: Mapping[str, JobState] = {
    "STARTING": JobState.STARTING,
    "RUNNING": JobState.RUNNING,
    "REQUEUED": JobState.REQUEUED,
    "SUCCEEDED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
    "STOPPED": JobState.STOPPED,
    "TIMED_OUT": JobState.TIMED_OUT,
}
"""Every word a supervisor writes, and what it means."""

_SAID = ("cause", "exit_code", "signal", "attempt", "started_at", "ended_at", "message")


def read_status(document: Mapping[str, Any]) -> JobStatus:
    """The status that `state.json` tells. UNKNOWN for a file that is not a supervisor's."""
    word = document.get("state")
    state = LOCAL_STATES.get(word) if isinstance(word, str) else None
    if state is None:
        return JobStatus(state=JobState.UNKNOWN, message=f"state.json says {word!r}, which no supervisor writes")
    said = {key: document[key] for key in _SAID if document.get(key) is not None}
    try:
        return JobStatus.model_validate({"state": state, **said})
    except ValidationError as error:
        return JobStatus(state=JobState.UNKNOWN, message=f"state.json cannot be read: {error.errors()[0]['msg']}")


def without_supervisor(status: JobStatus, complaint: str) -> JobStatus:
    """The status of a job whose supervisor is gone. `complaint` is what it wrote last, if anything."""
    if status.state.is_terminal:
        return status
    why = f": {complaint}" if complaint else ": it was killed, or the machine was restarted"
    lost = {"state": JobState.FAILED, "cause": CauseKind.NODE_LOST, "exit_code": None, "signal": None}
    return status.model_copy(update={**lost, "message": f"the job's supervisor is gone{why}"})


def is_afar(document: Mapping[str, Any], here: Mapping[str, str]) -> bool:
    """Whether the job is another machine's, where its lock cannot be seen from `here`. A restarted one is the same."""
    place = document.get("place", here)
    return bool(place["host"] != here["host"] and place["boot"] != here["boot"])


def seen_from_afar(status: JobStatus, host: str) -> JobStatus:
    """The status of a job of another machine, as it was last written: whether it still runs, only `host` knows."""
    if status.state.is_terminal:
        return status
    message = f"runs on machine `{host}`, which alone can tell whether it still does"
    return status.model_copy(update={"message": message})
