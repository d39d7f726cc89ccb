"""From SageMaker's words to a job's status. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from tunewright.contracts.status import CauseKind, JobState, JobStatus

TRAINING_STATES: Mapping[str, JobState] = {
    "InProgress": JobState.RUNNING,
    "Completed": JobState.SUCCEEDED,
    "Failed": JobState.FAILED,
    "Stopping": JobState.RUNNING,
    "Stopped": JobState.STOPPED,
    "Deleting": JobState.UNKNOWN,
}
"""Every word of `TrainingJobStatus`. A job that is deleted is gone soon, and how it ended is not said any more."""

SECONDARY_STATES: Mapping[str, JobState] = {
    "Pending": JobState.QUEUED,
    "LaunchingMLInstances": JobState.QUEUED,
    "Starting": JobState.STARTING,
    "PreparingTrainingStack": JobState.STARTING,
    "DownloadingTrainingImage": JobState.STARTING,
    "Downloading": JobState.STARTING,
    "Training": JobState.RUNNING,
    "Updating": JobState.RUNNING,
    "Uploading": JobState.RUNNING,
    "Stopping": JobState.RUNNING,
    "Interrupted": JobState.PREEMPTED,
    "Restarting": JobState.REQUEUED,
    "Stopped": JobState.STOPPED,
    "MaxRuntimeExceeded": JobState.TIMED_OUT,
    "MaxWaitTimeExceeded": JobState.TIMED_OUT,
    "Completed": JobState.SUCCEEDED,
    "Failed": JobState.FAILED,
}
"""Every word of `SecondaryStatus`. It refines `TrainingJobStatus`, and never contradicts it."""

_OWN_WORDS = re.compile(r"node (\d+), attempt (\d+): (out of memory, )?(exit code|signal) (\d+)")
_EXIT_CODE = re.compile(r"exit code:? (\d+)", re.IGNORECASE)
_CAUSES = (
    (re.compile(r"(cannot|could not|failed to) pull|image.*(not exist|not found)|CannotStartContainer", re.IGNORECASE),
     CauseKind.IMAGE_MISSING),
    (re.compile(r"out ?of ?memory|more memory", re.IGNORECASE), CauseKind.OUT_OF_MEMORY),
    (re.compile(r"spot.*interrupt|interrupt.*spot", re.IGNORECASE), CauseKind.PREEMPTED),
    (re.compile(r"InternalServerError|internal error|instance (failure|unhealthy)", re.IGNORECASE),
     CauseKind.NODE_LOST),
)  # fmt: skip
_TIMES = {"MaxRuntimeExceeded": "ran longer than cluster.options.max_runtime_seconds",
          "MaxWaitTimeExceeded": "waited and ran longer than cluster.options.max_wait_seconds"}  # fmt: skip


def not_found(name: str) -> JobStatus:
    """The status of a job that SageMaker does not know."""
    return JobStatus(state=JobState.NOT_FOUND, message=f"SageMaker knows no training job `{name}`")


def needs_description(summary: Mapping[str, Any]) -> bool:
    """Whether a line of ListTrainingJobs does not say enough: why a job failed, or how far one is."""
    return summary.get("TrainingJobStatus") != "Completed" and (
        summary.get("TrainingJobStatus") == "Failed" or "SecondaryStatus" not in summary
    )


def read_status(job: Mapping[str, Any]) -> JobStatus:
    """The status that a description tells, or a line of a list. UNKNOWN for words that SageMaker has not today."""
    word, second = str(job.get("TrainingJobStatus")), str(job.get("SecondaryStatus", ""))
    state = _state(word, second)
    if state is None:
        return JobStatus(
            state=JobState.UNKNOWN, message=f"SageMaker says {word!r} and {second!r}, which we do not know"
        )
    reason = str(job.get("FailureReason", ""))
    attempt = sum(one.get("Status") == "Restarting" for one in job.get("SecondaryStatusTransitions", ()))
    told: dict[str, Any] = {"state": state, "message": reason or _last_message(job), "attempt": attempt}
    told["started_at"] = _time(job.get("TrainingStartTime"))
    if state.is_terminal:
        told["ended_at"] = _time(job.get("TrainingEndTime"))
        told.update(_end(state, second, reason))
    return JobStatus(**told)


def _state(word: str, second: str) -> JobState | None:
    state = TRAINING_STATES.get(word)
    if state is JobState.RUNNING and word == "InProgress":
        refined = SECONDARY_STATES.get(second, JobState.RUNNING)
        return JobState.RUNNING if refined.is_terminal else refined  # not ended before the first word says so
    if word == "Stopped" and SECONDARY_STATES.get(second) is JobState.TIMED_OUT:
        return JobState.TIMED_OUT
    return state


def _end(state: JobState, second: str, reason: str) -> dict[str, Any]:
    if state is JobState.SUCCEEDED:
        return {"cause": CauseKind.EXIT, "exit_code": 0}
    if state is JobState.STOPPED:
        return {"cause": CauseKind.STOPPED}
    if state is JobState.TIMED_OUT:
        return {"cause": CauseKind.TIMEOUT, "message": _TIMES[second]}
    return why_it_failed(reason)


def why_it_failed(reason: str) -> dict[str, Any]:
    """Cause, exit code, signal and attempt out of a FailureReason: the start program's words, or SageMaker's own."""
    if own := _OWN_WORDS.search(reason):
        number = int(own[5])
        told: dict[str, Any] = {"attempt": int(own[2])}
        if own[4] == "signal":
            return {**told, "cause": CauseKind.OUT_OF_MEMORY if own[3] else CauseKind.SIGNAL, "signal": number}
        return {**told, "cause": CauseKind.EXIT, "exit_code": number}
    for pattern, cause in _CAUSES:
        if pattern.search(reason):
            return {"cause": cause}
    if code := _EXIT_CODE.search(reason):
        number = int(code[1])
        return {"cause": CauseKind.SIGNAL, "signal": number - 128} if 128 < number < 160 else {
            "cause": CauseKind.EXIT, "exit_code": number,
        }  # fmt: skip
    return {}


def _last_message(job: Mapping[str, Any]) -> str:
    transitions = job.get("SecondaryStatusTransitions", ())
    return str(transitions[-1].get("StatusMessage", "")) if transitions else ""


def _time(value: datetime | None) -> str | None:
    return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z") if value else None
