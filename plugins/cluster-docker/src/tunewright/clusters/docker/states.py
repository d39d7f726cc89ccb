"""From what a supervisor wrote to a job's status. Pure: the thin module that reads the files is `backend`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tunewright.contracts.status import JobState, JobStatus

DOCKER_STATES: Mapping[str, JobState] = {
    "STARTING": JobState.STARTING,
    "RUNNING": JobState.RUNNING,
    "REQUEUED": JobState.REQUEUED,
    "UNKNOWN": JobState.UNKNOWN,
    "SUCCEEDED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
    "STOPPED": JobState.STOPPED,
    "TIMED_OUT": JobState.TIMED_OUT,
}
"""Every word a supervisor writes, and what it means."""

CONTAINER_STATES: Mapping[str, JobState] = {
    "created": JobState.STARTING,
    "running": JobState.RUNNING,
    "paused": JobState.RUNNING,
    "restarting": JobState.REQUEUED,
    "removing": JobState.UNKNOWN,
    "exited": JobState.UNKNOWN,
    "dead": JobState.UNKNOWN,
}
"""Every word Docker has for a container, and what it means for a job that nobody looks after: an end is no verdict."""

_SAID = ("cause", "exit_code", "signal", "attempt", "started_at", "ended_at", "message")


def read_status(document: Mapping[str, Any]) -> JobStatus:
    """The status that `state.json` tells. UNKNOWN for a file that is not a supervisor's."""
    word = document.get("state")
    state = DOCKER_STATES.get(word) if isinstance(word, str) else None
    if state is None:
        return JobStatus(state=JobState.UNKNOWN, message=f"state.json says {word!r}, which no supervisor writes")
    said = {key: document[key] for key in _SAID if document.get(key) is not None}
    try:
        return JobStatus.model_validate({"state": state, **said})
    except ValidationError as error:
        return JobStatus(state=JobState.UNKNOWN, message=f"state.json cannot be read: {error.errors()[0]['msg']}")


def without_supervisor(status: JobStatus, words: list[str], why: str) -> JobStatus:
    """The status of a job whose supervisor is gone and cannot be replaced. `words`: what Docker says of its nodes."""
    told = {CONTAINER_STATES.get(word, JobState.UNKNOWN) for word in words}
    state = told.pop() if len(told) == 1 else JobState.UNKNOWN
    containers = f"its containers are {', '.join(words)}" if words else "it has no container"
    message = f"nobody looks after the job: {why}; {containers}"
    return status.model_copy(update={"state": state, "message": message})


def is_afar(document: Mapping[str, Any], here: Mapping[str, str]) -> bool:
    """Whether the job is another machine's, where its lock cannot be seen from `here`. A restarted one is the same."""
    place = document.get("place", here)
    return bool(place["host"] != here["host"] and place["boot"] != here["boot"])


def seen_from_afar(status: JobStatus, host: str) -> JobStatus:
    """The status of a job of another machine, as it was last written: whether it still runs, only `host` knows."""
    message = f"runs on machine `{host}`, which alone can tell whether it still does"
    return status.model_copy(update={"message": message})
