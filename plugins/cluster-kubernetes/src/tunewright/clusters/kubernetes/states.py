"""From a job's object and its pods to a job's status. Pure: `api` is who asks for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.clusters.kubernetes.names import LABEL
from tunewright.clusters.kubernetes.pod_ends import PodEnd, attempt_of, container_state, disruption, end_of, rank_of
from tunewright.clusters.kubernetes.words import (
    CONDITIONS,
    DISRUPTIONS,
    FAILURE_REASONS,
    POD_PHASES,
    SURELY_MISSING,
    WAITING_REASONS,
)
from tunewright.contracts.status import CauseKind, JobState, JobStatus

STOP_ANNOTATION = f"{LABEL}/stop-asked-at"
Document = Mapping[str, Any]


def is_over(job: Document) -> bool:
    """Whether Kubernetes has ended the job."""
    return any(CONDITIONS[name].is_terminal for name in _true_conditions(job))


def is_suspended(job: Document) -> bool:
    """Whether the job may not run now: it waits for Kueue, or somebody has suspended it."""
    return bool(job.get("spec", {}).get("suspend"))


def has_been_stopped(job: Document) -> bool:
    """Whether `stop` was called before it had ended."""
    return STOP_ANNOTATION in job["metadata"].get("annotations", {})


def read_status(job: Document, pods: Sequence[Document]) -> JobStatus:
    """The status that the job's object and its pods tell."""
    attempt = max((attempt_of(pod) for pod in pods), default=0)
    started = [moment for pod in pods if (moment := _started_at(pod))]
    common: dict[str, Any] = {"attempt": attempt, "started_at": min(started, default=None)}
    told = {CONDITIONS[name]: condition for name, condition in _true_conditions(job).items()}
    if done := told.get(JobState.SUCCEEDED):
        ended_at = job["status"].get("completionTime") or done.get("lastTransitionTime")
        return JobStatus(state=JobState.SUCCEEDED, ended_at=ended_at, **common)
    if failed := told.get(JobState.FAILED):
        return _failed(job, failed, pods, common)
    if has_been_stopped(job) and is_suspended(job) and not job.get("status", {}).get("active"):
        asked_at = job["metadata"]["annotations"][STOP_ANNOTATION]
        message = "stopped before it had begun" if not started else "stopped"
        return JobStatus(state=JobState.STOPPED, cause=CauseKind.STOPPED, ended_at=asked_at, message=message, **common)
    if JobState.QUEUED in told or is_suspended(job):
        message = "suspended: waits until Kueue, or who suspended it, lets it run"
        return JobStatus(state=JobState.QUEUED, message=message, **common)
    return _going_on(pods, common)


def _true_conditions(job: Document) -> dict[str, Document]:
    conditions = job.get("status", {}).get("conditions") or ()
    return {one["type"]: one for one in conditions if one.get("status") == "True" and one["type"] in CONDITIONS}


def _started_at(pod: Document) -> str | None:
    state = container_state(pod, "running") or container_state(pod, "terminated") or {}
    moment: str | None = state.get("startedAt")
    return moment


def _failed(job: Document, condition: Document, pods: Sequence[Document], common: Mapping[str, Any]) -> JobStatus:
    ended_at, reason = condition.get("lastTransitionTime"), condition.get("reason", "")
    if has_been_stopped(job):
        return JobStatus(
            state=JobState.STOPPED, cause=CauseKind.STOPPED, ended_at=ended_at, message="stopped", **common
        )
    state = FAILURE_REASONS.get(reason, JobState.FAILED)
    if state is JobState.TIMED_OUT:
        message = condition.get("message") or "its time is over"
        return JobStatus(state=state, cause=CauseKind.TIMEOUT, ended_at=ended_at, message=message, **common)
    end = first_to_fail(pods)
    if end is None:
        return _failed_unseen(state, condition, common)
    if end.is_partner and end.first is not None:
        end = end.first
    elif end.is_partner and _who_failed_is_to_be_told(pods):
        return JobStatus(state=JobState.RUNNING, message="a node has failed; its end is not told yet", **common)
    return JobStatus(
        state=state,
        cause=end.cause,
        exit_code=end.exit_code,
        signal=end.signal,
        ended_at=ended_at,
        message=_by_whom(end, job, pods),
        **common,
    )


def _failed_unseen(state: JobState, condition: Document, common: Mapping[str, Any]) -> JobStatus:
    """A failed job none of whose pods has failed: the pod was deleted, or its Job's condition says how it ended."""
    reason, said = condition.get("reason", ""), condition.get("message", "")
    words = ": ".join(filter(None, (reason, said)))
    ended_at = condition.get("lastTransitionTime")
    if found := re.search(r"failed with exit code (\d+)", said):
        code = int(found.group(1))
        return JobStatus(state=state, cause=CauseKind.EXIT, exit_code=code, ended_at=ended_at, message=words, **common)
    if "DisruptionTarget" in said or FAILURE_REASONS.get(reason) is JobState.FAILED:
        message = f"a pod was deleted: preempted, its machine drained or lost, or by hand ({words})"
        return JobStatus(state=state, cause=CauseKind.PREEMPTED, ended_at=ended_at, message=message, **common)
    return JobStatus(state=state, ended_at=ended_at, message=words, **common)


def _by_whom(end: PodEnd, job: Document, pods: Sequence[Document]) -> str:
    has_several = job.get("spec", {}).get("completions", 1) > 1 or len({rank_of(pod) for pod in pods}) > 1
    return f"node {end.rank}: {end.message}" if has_several else end.message


def first_to_fail(pods: Sequence[Document]) -> PodEnd | None:
    """Of the last attempt, the pod whose end was the others' too."""
    ends = [(attempt_of(pod), end) for pod in pods if (end := end_of(pod))]
    last = max((attempt for attempt, _ in ends), default=0)
    lost = [end for pod in pods if (end := _lost(pod)) and attempt_of(pod) == last]
    latest = [end for attempt, end in ends if attempt == last] + lost
    return min(latest, key=lambda end: (end.is_partner, end.at_seconds, end.rank), default=None)


def _who_failed_is_to_be_told(pods: Sequence[Document]) -> bool:
    """Whether a pod of the last attempt is there whose end no kubelet has told: those that followed may be quicker."""
    last = max((attempt_of(pod) for pod in pods), default=0)
    return any(attempt_of(pod) == last and not end_of(pod) and not _lost(pod) for pod in pods)


def _lost(pod: Document) -> PodEnd | None:
    """A pod on a machine that nobody hears from: it has not failed, and will not say why."""
    conditions = pod.get("status", {}).get("conditions") or ()
    silent = any(one.get("type") == "Ready" and one.get("reason") == "NodeStatusUnknown" for one in conditions)
    is_lost = silent or pod.get("status", {}).get("reason") == "NodeLost"
    if not is_lost or end_of(pod):
        return None
    node = pod.get("spec", {}).get("nodeName", "?")
    message = f"its machine `{node}` was not heard of any more"
    return PodEnd(rank_of(pod), CauseKind.NODE_LOST, None, None, message, 0.0, False)


def _going_on(pods: Sequence[Document], common: Mapping[str, Any]) -> JobStatus:
    """A job that has not ended: as its newest pods are, the one that holds up the others first."""
    newest: dict[int, Document] = {}
    for pod in sorted(pods, key=lambda one: (attempt_of(one), one["metadata"].get("creationTimestamp", ""))):
        newest[rank_of(pod)] = pod
    if not newest:
        return JobStatus(state=JobState.QUEUED, **common)
    told = [_of_pod(newest[rank]) for rank in sorted(newest)]
    state, cause, message = min(told, key=lambda one: _ORDER.index(one[0]))
    if state in (JobState.QUEUED, JobState.STARTING) and common["attempt"]:
        state = JobState.REQUEUED
    return JobStatus(state=state, cause=cause, message=message, **common)


_ORDER = (
    JobState.FAILED, JobState.UNKNOWN, JobState.PREEMPTED, JobState.REQUEUED, JobState.QUEUED, JobState.STARTING,
    JobState.RUNNING,
)  # fmt: skip


def _of_pod(pod: Document) -> tuple[JobState, CauseKind | None, str]:
    status = pod.get("status", {})
    phase = status.get("phase", "Pending")
    if lost := _lost(pod):
        return JobState.UNKNOWN, None, lost.message
    disrupted = disruption(pod)
    if disrupted is not None and phase != "Succeeded":
        cause = DISRUPTIONS.get(disrupted.get("reason", ""), CauseKind.EVICTED)
        state = JobState.PREEMPTED if cause is CauseKind.PREEMPTED else JobState.REQUEUED
        return state, None, str(disrupted.get("message") or disrupted.get("reason") or "")
    if phase == "Failed":
        end = end_of(pod)
        return JobState.REQUEUED, None, end.message if end else ""
    if phase != "Pending":
        return POD_PHASES.get(phase, JobState.UNKNOWN), None, "" if phase in POD_PHASES else f"a pod is {phase!r}"
    return _pending(pod)


def _pending(pod: Document) -> tuple[JobState, CauseKind | None, str]:
    conditions = {one["type"]: one for one in pod.get("status", {}).get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    waiting = container_state(pod, "waiting") or {}
    if scheduled.get("status") == "False":
        words = ": ".join(filter(None, (scheduled.get("reason"), scheduled.get("message"))))
        return JobState.QUEUED, None, words
    if not waiting and scheduled.get("status") != "True":
        return JobState.QUEUED, None, ""
    reason, message = waiting.get("reason", ""), waiting.get("message", "")
    words = ": ".join(filter(None, (reason, message))) if reason not in ("ContainerCreating", "") else ""
    cause = WAITING_REASONS.get(reason)
    if cause is CauseKind.IMAGE_MISSING and _is_sure(reason, message):
        hint = "`stop` ends what Kubernetes still tries"
        return JobState.FAILED, cause, f"{words} ({hint})"
    return JobState.STARTING, None, words


def _is_sure(reason: str, message: str) -> bool:
    sure = reason in ("InvalidImageName", "ErrImageNeverPull")
    return sure or any(words in message.lower() for words in SURELY_MISSING)
