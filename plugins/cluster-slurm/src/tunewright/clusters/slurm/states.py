"""From Slurm's word and what the job's own programs wrote to a job's status. Pure.

Slurm says whether a job has ended and who ended it; `state.json`, written on the job's first node, says what its
command returned and on which node. Slurm forgets, with accounting too: then the file alone tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from tunewright.contracts.status import CauseKind, JobState, JobStatus

SLURM_STATES: Mapping[str, tuple[JobState, CauseKind | None]] = {
    "PENDING": (JobState.QUEUED, None),
    "RESV_DEL_HOLD": (JobState.QUEUED, None),
    "CONFIGURING": (JobState.STARTING, None),
    "POWER_UP_NODE": (JobState.STARTING, None),
    "RUNNING": (JobState.RUNNING, None),
    "COMPLETING": (JobState.RUNNING, None),
    "EXPEDITING": (JobState.RUNNING, None),
    "RESIZING": (JobState.RUNNING, None),
    "SIGNALING": (JobState.RUNNING, None),
    "STAGE_OUT": (JobState.RUNNING, None),
    "STOPPED": (JobState.RUNNING, None),
    "SUSPENDED": (JobState.RUNNING, None),
    "UPDATE_DB": (JobState.RUNNING, None),
    "REQUEUED": (JobState.REQUEUED, None),
    "REQUEUE_FED": (JobState.REQUEUED, None),
    "REQUEUE_HOLD": (JobState.REQUEUED, None),
    "SPECIAL_EXIT": (JobState.REQUEUED, None),
    "COMPLETED": (JobState.SUCCEEDED, None),
    "BOOT_FAIL": (JobState.FAILED, CauseKind.NODE_LOST),
    "FAILED": (JobState.FAILED, CauseKind.EXIT),
    "LAUNCH_FAILED": (JobState.FAILED, CauseKind.NODE_LOST),
    "NODE_FAIL": (JobState.FAILED, CauseKind.NODE_LOST),
    "OUT_OF_MEMORY": (JobState.FAILED, CauseKind.OUT_OF_MEMORY),
    "PREEMPTED": (JobState.FAILED, CauseKind.PREEMPTED),
    "RECONFIG_FAIL": (JobState.FAILED, CauseKind.NODE_LOST),
    "CANCELLED": (JobState.STOPPED, CauseKind.STOPPED),
    "REVOKED": (JobState.STOPPED, CauseKind.STOPPED),
    "DEADLINE": (JobState.TIMED_OUT, CauseKind.TIMEOUT),
    "TIMEOUT": (JobState.TIMED_OUT, CauseKind.TIMEOUT),
}
"""Every word that Slurm has for a job, from 20.11 to 25.05: our state, and the cause that it alone tells."""

_WORDS = {
    "BOOT_FAIL": "a node did not boot",
    "DEADLINE": "its deadline has come",
    "LAUNCH_FAILED": "it could not be launched on its nodes",
    "NODE_FAIL": "a node was lost",
    "OUT_OF_MEMORY": "out of memory",
    "PREEMPTED": "preempted, and not to be requeued",
    "STOPPED": "its processes are halted (SIGSTOP)",
    "SUSPENDED": "suspended: another job has its nodes",
    "TIMEOUT": "its time limit is over",
}
_SAID = ("exit_code", "signal", "cause", "message")


@dataclass(frozen=True)
class SlurmWord:
    """What Slurm says of one job."""

    state: str
    """One of SLURM_STATES, or what we do not know."""

    name: str
    """The job's name, in which a digest tells whether it is ours: Slurm gives numbers anew."""

    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    started_at: str | None = None
    ended_at: str | None = None
    nodes: str = ""

    @classmethod
    def from_queue(cls, row: Sequence[str]) -> SlurmWord:
        """From a row of QUEUE_FIELDS. The exit code is as `wait` gives it."""
        _, state, reason, waited, start, end, nodes, name = row
        number = int(waited) if waited.isdigit() else 0
        exit_code, signal = number >> 8, number & 127 or None
        return cls(state, name, reason, exit_code, signal, _time(start), _time(end), nodes)

    @classmethod
    def from_accounts(cls, row: Sequence[str]) -> SlurmWord:
        """From a row of ACCOUNT_FIELDS: the exit code is `CODE:SIGNAL`, the state may be `CANCELLED by 1000`."""
        _, state, code, start, end, nodes, name = row
        exit_code, _, signal = code.partition(":")
        word = (state.split() or ["UNKNOWN"])[0]
        return cls(word, name, "", int(exit_code or 0), int(signal or 0) or None, _time(start), _time(end), nodes)


def judge(word: SlurmWord | None, documents: Mapping[str, Mapping[str, Any]]) -> JobStatus:
    """The status of a job of ours. `word`: what Slurm says, None where it knows none. `documents`: its files."""
    told = documents.get("state", {})
    if word is None:
        return _without_slurm(told, documents.get("submitted", {}))
    known = SLURM_STATES.get(word.state)
    if known is None:
        return JobStatus(state=JobState.UNKNOWN, message=f"Slurm calls it {word.state!r}, which we do not know")
    state, cause = known
    if state is JobState.STOPPED:
        return _cancelled(word, documents)
    return _ended(word, state, cause, told) if state.is_terminal else _going_on(word, state, told)


def read_verdict(document: Mapping[str, Any]) -> JobStatus:
    """A status that was kept when the job had ended."""
    try:
        return JobStatus.model_validate(document)
    except ValidationError as error:
        return JobStatus(state=JobState.UNKNOWN, message=f"verdict.json cannot be read: {error.errors()[0]['msg']}")


def _going_on(word: SlurmWord, state: JobState, told: Mapping[str, Any]) -> JobStatus:
    message = _WORDS.get(word.state, "")
    if state is JobState.QUEUED:
        message = f"Slurm: {word.reason}" if word.reason not in ("", "None") else ""
        if told:
            state, message = JobState.REQUEUED, str(told.get("message", message))
    elif state is JobState.RUNNING:
        if word.state == "RUNNING" and not told:
            state = JobState.STARTING
        elif word.state == "RUNNING" and told.get("state") == "REQUEUED":
            state, message = JobState.REQUEUED, str(told.get("message", ""))
    return JobStatus(state=state, message=message, **_times(word, told, has_ended=False))


def _ended(word: SlurmWord, state: JobState, cause: CauseKind | None, told: Mapping[str, Any]) -> JobStatus:
    times = _times(word, told, has_ended=True)
    if told.get("ended_at") and word.state in ("COMPLETED", "FAILED", "OUT_OF_MEMORY"):
        return _by_its_own_word(word, told, times)
    if word.state == "FAILED" or (state is JobState.SUCCEEDED and word.exit_code):
        message = f"Slurm: {word.reason or 'failed'} on {word.nodes or 'no node'}; the job's own programs said nothing"
        return JobStatus(
            state=JobState.FAILED, cause=_cause_of(word), exit_code=word.exit_code or None, signal=word.signal,
            message=message, **times,
        )  # fmt: skip
    message = _WORDS.get(word.state, "")
    where = f" ({word.nodes})" if word.nodes and message else ""
    code = 0 if state is JobState.SUCCEEDED else None
    return JobStatus(state=state, cause=cause, exit_code=code, message=message + where, **times)


def _by_its_own_word(word: SlurmWord, told: Mapping[str, Any], times: Mapping[str, Any]) -> JobStatus:
    """How the command ended, from who saw it. Slurm calls a job out of memory also where only a child was killed."""
    said = {key: told[key] for key in _SAID if told.get(key) is not None}
    if told.get("state") == "SUCCEEDED":
        return JobStatus(state=JobState.SUCCEEDED, exit_code=0, **times)
    if word.state == "OUT_OF_MEMORY" and said.get("signal"):
        said["cause"] = CauseKind.OUT_OF_MEMORY
    try:
        return JobStatus(state=JobState.FAILED, **{**times, **said})
    except ValidationError as error:
        return JobStatus(state=JobState.FAILED, message=f"state.json cannot be read: {error.errors()[0]['msg']}")


def _cancelled(word: SlurmWord, documents: Mapping[str, Mapping[str, Any]]) -> JobStatus:
    told = documents.get("state", {})
    times = _times(word, told, has_ended=True)
    # The accounts do not tell why it was cancelled.
    has_waited = not word.reason and not told and bool(documents.get("submitted", {}).get("is_after"))
    if word.reason.startswith("Dependency") or (has_waited and "stop" not in documents):
        message = "a job that it was to start after has not succeeded"
        return JobStatus(state=JobState.STOPPED, cause=CauseKind.DEPENDENCY, message=message, **times)
    return JobStatus(state=JobState.STOPPED, cause=CauseKind.STOPPED, message="cancelled", **times)


def _without_slurm(told: Mapping[str, Any], submitted: Mapping[str, Any]) -> JobStatus:
    """What is known of a job that Slurm has forgotten."""
    if told.get("ended_at"):
        word = SlurmWord("COMPLETED" if told.get("state") == "SUCCEEDED" else "FAILED", "")
        return _by_its_own_word(word, told, _times(word, told, has_ended=True))
    if told.get("state") == "TAKEN":
        message = f"Slurm ended it, and knows it no more: {told.get('message')}"
        return JobStatus(
            state=JobState.STOPPED, cause=CauseKind.STOPPED, attempt=told.get("attempt", 0), message=message
        )
    if told:
        nodes = ", ".join(told.get("nodes", []))
        message = f"Slurm knows it no more, and its last word was {told.get('state')} on {nodes}"
        attempt = told.get("attempt", 0)
        return JobStatus(state=JobState.FAILED, cause=CauseKind.NODE_LOST, attempt=attempt, message=message)
    if submitted.get("is_after"):
        message = "never started: a job that it was to start after has not succeeded"
        return JobStatus(state=JobState.STOPPED, cause=CauseKind.DEPENDENCY, message=message)
    if submitted:
        message = "cancelled before it started: Slurm knows it no more"
        return JobStatus(state=JobState.STOPPED, cause=CauseKind.STOPPED, message=message)
    return JobStatus(state=JobState.NOT_FOUND, message="Slurm knows no such job, and nothing is written about it")


def _cause_of(word: SlurmWord) -> CauseKind:
    if word.reason.startswith(("JobLaunchFailure", "NodeDown", "SystemFailure", "launch_failed")):
        return CauseKind.NODE_LOST
    return CauseKind.SIGNAL if word.signal else CauseKind.EXIT


def _times(word: SlurmWord, told: Mapping[str, Any], has_ended: bool) -> dict[str, Any]:
    times = {"attempt": told.get("attempt", 0), "started_at": told.get("started_at") or word.started_at}
    if has_ended:
        times["ended_at"] = told.get("ended_at") or word.ended_at
    return times


def _time(text: str) -> str | None:
    """Slurm was asked in UTC, and says `2026-11-21T22:15:54`, or a word where there is no time."""
    return f"{text}Z" if text[:1].isdigit() else None
