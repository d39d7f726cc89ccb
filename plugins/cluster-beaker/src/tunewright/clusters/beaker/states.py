"""From Beaker's words for an experiment's jobs to a job's status. Pure: it sees plain values, no protocol."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tunewright.contracts.status import CauseKind, JobState, JobStatus

WORKLOAD_STATES: Mapping[str, JobState] = {
    "STATUS_UNSPECIFIED": JobState.UNKNOWN,
    "STATUS_SUBMITTED": JobState.QUEUED,
    "STATUS_QUEUED": JobState.QUEUED,
    "STATUS_INITIALIZING": JobState.STARTING,
    "STATUS_READY_TO_START": JobState.STARTING,
    "STATUS_RUNNING": JobState.RUNNING,
    "STATUS_STOPPING": JobState.RUNNING,
    "STATUS_UPLOADING_RESULTS": JobState.RUNNING,
    "STATUS_CANCELED": JobState.STOPPED,
    "STATUS_SUCCEEDED": JobState.SUCCEEDED,
    "STATUS_FAILED": JobState.FAILED,
}
"""Every word Beaker has for a workload or a job, and what it means. Why it was canceled may say otherwise."""

CANCELATIONS: Mapping[str, tuple[JobState, CauseKind | None, str]] = {
    "CANCELATION_CODE_UNSPECIFIED": (JobState.STOPPED, CauseKind.STOPPED, "was canceled"),
    "CANCELATION_CODE_SYSTEM_PREEMPTION": (JobState.FAILED, CauseKind.PREEMPTED, "was preempted"),
    "CANCELATION_CODE_USER_PREEMPTION": (JobState.FAILED, CauseKind.PREEMPTED, "was preempted by a user"),
    "CANCELATION_CODE_IDLE": (JobState.FAILED, CauseKind.EVICTED, "was put out: it left its GPUs idle"),
    "CANCELATION_CODE_MANUAL": (JobState.STOPPED, CauseKind.STOPPED, "was stopped"),
    "CANCELATION_CODE_TIMEOUT": (JobState.TIMED_OUT, CauseKind.TIMEOUT, "ran longer than time_limit_seconds"),
    "CANCELATION_CODE_NODE_UNAVAILABLE": (JobState.FAILED, CauseKind.NODE_LOST, "lost its machine"),
    "CANCELATION_CODE_NODE_UNHEALTHY": (JobState.FAILED, CauseKind.NODE_LOST, "had an unhealthy machine"),
    "CANCELATION_CODE_IMPOSSIBLE_TO_SCHEDULE": (JobState.FAILED, None, "asks for what no machine has"),
    "CANCELATION_CODE_SIBLING_TASK_FAILED": (JobState.FAILED, None, "was ended: another node failed"),
    "CANCELATION_CODE_SIBLING_TASK_PREEMPTION": (JobState.FAILED, CauseKind.PREEMPTED, "was preempted with another"),
    "CANCELATION_CODE_HEALTHCHECK_FAILED": (JobState.FAILED, CauseKind.NODE_LOST, "had a machine that is not healthy"),
    "CANCELATION_CODE_SIBLING_TASK_RETRY": (JobState.FAILED, None, "was ended: another node starts again"),
}
"""Every reason Beaker has for canceling a job: the state it ends in for good, the cause, and words."""

LARGEST_SIGNAL = 64
_OUT_OF_MEMORY = re.compile(r"out of memory|\boom", re.IGNORECASE)
_FOLLOWERS = ("SIBLING_TASK_FAILED", "SIBLING_TASK_RETRY", "SIBLING_TASK_PREEMPTION")


@dataclass(frozen=True)
class Try:
    """One start of one node: a job in Beaker's words. Times are ISO 8601."""

    rank: int
    job_id: str = ""
    status: str = "STATUS_UNSPECIFIED"
    exit_code: int | None = None
    cancelation: str | None = None
    message: str = ""
    created_at: str = ""
    started_at: str | None = None
    ended_at: str | None = None
    is_final: bool = False
    is_out_of_memory: bool = False
    complaint: str = ""

    @property
    def has_failed(self) -> bool:
        """Whether it ended in any way but well."""
        return self.status in ("STATUS_FAILED", "STATUS_CANCELED") or bool(self.exit_code)

    @property
    def is_follower(self) -> bool:
        """Whether it ended only because another node did."""
        return self.cancelation is not None and self.cancelation.endswith(_FOLLOWERS)


def status_of(word: str, tries: Sequence[Try], why: str = "") -> JobStatus:
    """The status of an experiment that Beaker calls `word`, with all tries of all its nodes.

    `why`: what whoever canceled the experiment said.
    """
    state = WORKLOAD_STATES.get(word)
    if state is None:
        return JobStatus(state=JobState.UNKNOWN, message=f"Beaker says {word!r}, which is no word of this version")
    started = sorted(one.started_at for one in tries if one.started_at)
    attempt = attempt_of(tries)
    latest = latest_of(tries)
    if not state.is_terminal or any(not one.is_final for one in latest):
        status = _under_way(state, tries, latest)
    elif state is JobState.SUCCEEDED:
        status = JobStatus(state=state, cause=CauseKind.EXIT, exit_code=0)
    else:
        status = _failed(state, latest, why)
    ended = max((one.ended_at for one in latest if one.ended_at), default=None) if status.state.is_terminal else None
    return status.model_copy(
        update={"attempt": attempt, "started_at": started[0] if started else None, "ended_at": ended}
    )


def attempt_of(tries: Sequence[Try]) -> int:
    """0 for the first start: as many as a node has been started again."""
    counts: dict[int, int] = {}
    for one in tries:
        counts[one.rank] = counts.get(one.rank, 0) + bool(one.started_at)
    return max(0, max(counts.values(), default=0) - 1)


def latest_of(tries: Sequence[Try]) -> list[Try]:
    """The newest try of each node, in the order of their ranks."""
    newest: dict[int, Try] = {}
    for one in sorted(tries, key=lambda one: one.created_at):
        newest[one.rank] = one
    return [newest[rank] for rank in sorted(newest)]


def _under_way(state: JobState, tries: Sequence[Try], latest: Sequence[Try]) -> JobStatus:
    """While it is not over: what waits after an earlier try ended is told apart from what waits for its first."""
    if state.is_terminal:  # its last words are not in yet
        state = JobState.RUNNING
    if state not in (JobState.QUEUED, JobState.STARTING):
        return JobStatus(state=state)
    ended = [one for one in tries if one.is_final]
    if not ended:
        return JobStatus(state=state, message=_first_words(latest))
    last = max(ended, key=lambda one: one.ended_at or "")
    is_preempted = "PREEMPTION" in (last.cancelation or "")
    if is_preempted and all(one.is_final for one in latest):
        return JobStatus(state=JobState.PREEMPTED, cause=CauseKind.PREEMPTED, message="was preempted")
    message = f"starts again after it {_words(last)}"
    return JobStatus(state=JobState.REQUEUED if state is JobState.QUEUED else state, message=message)


def _first_words(latest: Sequence[Try]) -> str:
    return next((one.message for one in latest if one.message), "")


def _failed(state: JobState, latest: Sequence[Try], why: str) -> JobStatus:
    """The verdict of the node that failed by itself, the first where there are several."""
    failed = [one for one in latest if one.has_failed]
    if not failed:
        cause = CauseKind.STOPPED if state is JobState.STOPPED else None
        return JobStatus(state=state, cause=cause, message=why or "ended before it was started")
    own = [one for one in failed if not one.is_follower] or failed
    first = min(own, key=lambda one: (one.ended_at or "~", one.rank))
    verdict = _verdict(first, why)
    where = f"node {first.rank} " if len(latest) > 1 else ""
    return verdict.model_copy(update={"message": f"{where}{verdict.message}"})


def _verdict(one: Try, why: str) -> JobStatus:
    if one.status == "STATUS_CANCELED":
        state, cause, _ = CANCELATIONS.get(one.cancelation or "CANCELATION_CODE_UNSPECIFIED", _UNKNOWN_CANCELATION)
        reason = f": {why}" if why and state is JobState.STOPPED else ""
        return JobStatus(state=state, cause=cause, message=f"{_words(one)}{reason}")
    if is_out_of_memory(one):
        number = _signal(one.exit_code)
        return JobStatus(
            state=JobState.FAILED, cause=CauseKind.OUT_OF_MEMORY, message=_words(one),
            exit_code=None if number else one.exit_code, signal=number,
        )  # fmt: skip
    if number := _signal(one.exit_code):
        return JobStatus(state=JobState.FAILED, cause=CauseKind.SIGNAL, signal=number, message=_words(one))
    if one.exit_code:
        cause = CauseKind.IMAGE_MISSING if one.complaint else CauseKind.EXIT
        return JobStatus(state=JobState.FAILED, cause=cause, exit_code=one.exit_code, message=_words(one))
    cause_of_none = None if one.started_at else CauseKind.IMAGE_MISSING if "image" in one.message.lower() else None
    return JobStatus(state=JobState.FAILED, cause=cause_of_none, message=_words(one))


_UNKNOWN_CANCELATION = (JobState.FAILED, None, "was canceled for a reason of which this version has not heard")


def is_out_of_memory(one: Try) -> bool:
    """By the start program's note, or by Beaker's words."""
    return one.is_out_of_memory or bool(_OUT_OF_MEMORY.search(one.message))


def _signal(exit_code: int | None) -> int | None:
    """The signal that ended the command: the start program tells it as 128 + n."""
    number = (exit_code or 0) - 128
    return number if 0 < number <= LARGEST_SIGNAL else None


def _words(one: Try) -> str:
    if one.status == "STATUS_CANCELED":
        return CANCELATIONS.get(one.cancelation or "CANCELATION_CODE_UNSPECIFIED", _UNKNOWN_CANCELATION)[2]
    if is_out_of_memory(one):
        return "ran out of memory"
    if number := _signal(one.exit_code):
        return f"was killed by {_signal_name(number)}"
    if one.exit_code:
        return one.complaint or f"ended with exit code {one.exit_code}"
    return one.message or "failed, and Beaker does not say why"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
