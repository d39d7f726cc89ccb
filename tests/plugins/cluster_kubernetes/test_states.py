"""From Kubernetes' words for jobs and pods to a status."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tunewright.clusters.kubernetes.states import STOP_ANNOTATION, read_status
from tunewright.clusters.kubernetes.words import (
    CONDITIONS,
    DISRUPTIONS,
    FAILURE_REASONS,
    POD_PHASES,
    POD_REASONS,
    TERMINATED_REASONS,
    WAITING_REASONS,
)
from tunewright.contracts.status import CauseKind, JobState

MOMENT = "2026-11-21T10:00:00Z"


def a_job(*conditions: tuple[str, str], annotations: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    told = [
        {"type": word, "status": "True", "reason": reason, "message": "why", "lastTransitionTime": MOMENT}
        for word, reason in conditions
    ]
    return {"metadata": {"name": "j", "annotations": annotations or {}}, "spec": spec, "status": {"conditions": told}}


def a_pod(phase: str, rank: int = 0, attempt: int = 0, state: Any = None, **status: Any) -> dict[str, Any]:
    annotations = {
        "batch.kubernetes.io/job-completion-index": str(rank),
        "batch.kubernetes.io/job-index-failure-count": str(attempt),
    }
    containers = [{"name": "job", "state": state}] if state else []
    metadata = {"name": f"p{rank}", "annotations": annotations, "creationTimestamp": MOMENT}
    return {"metadata": metadata, "spec": {}, "status": {"phase": phase, "containerStatuses": containers, **status}}


def ended(code: int, message: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    text = {"message": json.dumps(message)} if message is not None else {}
    moments = {"startedAt": MOMENT, "finishedAt": MOMENT}
    return {"terminated": {"exitCode": code, "reason": "Error", **moments, **text, **more}}


def failed(*pods: dict[str, Any], reason: str = "MaxFailedIndexesExceeded") -> Any:
    return read_status(a_job(("Failed", reason)), pods)


@pytest.mark.parametrize(
    ("job", "pods", "state"),
    [
        (a_job(("Complete", "")), [], JobState.SUCCEEDED),
        (a_job(("SuccessCriteriaMet", ""), ("Complete", "")), [], JobState.SUCCEEDED),
        (a_job(("Failed", "DeadlineExceeded")), [], JobState.TIMED_OUT),
        (a_job(("Failed", "a new word")), [], JobState.FAILED),
        (a_job(("FailureTarget", "PodFailurePolicy")), [a_pod("Running")], JobState.RUNNING),
        (a_job(("Suspended", "")), [], JobState.QUEUED),
        (a_job(suspend=True), [], JobState.QUEUED),
        (a_job(), [], JobState.QUEUED),
        (a_job(), [a_pod("Pending")], JobState.QUEUED),
        (a_job(), [a_pod("Pending", conditions=[{"type": "PodScheduled", "status": "True"}])], JobState.STARTING),
        (a_job(), [a_pod("Pending", state={"waiting": {"reason": "ContainerCreating"}})], JobState.STARTING),
        (a_job(), [a_pod("Running")], JobState.RUNNING),
        (a_job(), [a_pod("Running"), a_pod("Pending", 1)], JobState.QUEUED),
        (a_job(), [a_pod("Failed", state=ended(1))], JobState.REQUEUED),
        (a_job(), [a_pod("Failed", state=ended(1)), a_pod("Pending", attempt=1)], JobState.REQUEUED),
        (a_job(), [a_pod("Failed", state=ended(1)), a_pod("Running", attempt=1)], JobState.RUNNING),
        (a_job(), [a_pod("Levitating")], JobState.UNKNOWN),
        (a_job(("Failed", "DeadlineExceeded"), annotations={STOP_ANNOTATION: MOMENT}), [], JobState.STOPPED),
        (a_job(("Complete", ""), annotations={STOP_ANNOTATION: MOMENT}), [], JobState.SUCCEEDED),
        (a_job(annotations={STOP_ANNOTATION: MOMENT}), [a_pod("Running")], JobState.RUNNING),
        (a_job(annotations={STOP_ANNOTATION: MOMENT}, suspend=True), [], JobState.STOPPED),
    ],
)
def test_a_jobs_state(job: dict[str, Any], pods: list[dict[str, Any]], state: JobState) -> None:
    assert read_status(job, pods).state is state


@pytest.mark.parametrize(
    ("pod", "cause", "exit_code", "signal", "shell"),
    [
        (a_pod("Failed", state=ended(42, {"exit_code": 42})), CauseKind.EXIT, 42, None, 42),
        (a_pod("Failed", state=ended(255, {"exit_code": 255})), CauseKind.EXIT, 255, None, 255),
        (a_pod("Failed", state=ended(137, {"exit_code": 137})), CauseKind.EXIT, 137, None, 137),
        (a_pod("Failed", state=ended(139, {"signal": 11})), CauseKind.SIGNAL, None, 11, 139),
        (a_pod("Failed", state=ended(137)), CauseKind.SIGNAL, None, 9, 137),
        (a_pod("Failed", state=ended(137, reason="OOMKilled")), CauseKind.OUT_OF_MEMORY, None, 9, 137),
        (
            a_pod("Failed", state=ended(1, {"exit_code": 1}, reason="OOMKilled")),
            CauseKind.OUT_OF_MEMORY, None, None, 137,
        ),
        (a_pod("Failed", state=ended(128, reason="StartError")), CauseKind.EXIT, 128, None, 128),
        (a_pod("Failed", reason="Evicted"), CauseKind.EVICTED, None, None, 75),
        (a_pod("Failed", state=ended(143), reason="NodeLost"), CauseKind.NODE_LOST, None, None, 75),
        (
            a_pod("Failed", state=ended(143), conditions=[
                {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"},
            ]),
            CauseKind.PREEMPTED, None, None, 75,
        ),
        (
            a_pod("Running", conditions=[{"type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown"}]),
            CauseKind.NODE_LOST, None, None, 75,
        ),
    ],
)  # fmt: skip
def test_a_pods_end(
    pod: dict[str, Any], cause: CauseKind, exit_code: int | None, signal: int | None, shell: int
) -> None:
    status = failed(pod)
    assert (status.state, status.cause, status.exit_code, status.signal) == (JobState.FAILED, cause, exit_code, signal)
    assert status.shell_exit_code == shell
    assert status.message


def test_one_that_only_followed_says_who_failed_where_that_pod_is_gone() -> None:
    first = {"rank": 1, "exit_code": 7, "signal": None}
    followed = a_pod("Failed", 0, 0, ended(113, {"lost": "node 1 is gone", "at": 2.0, "first": first}))
    gone = failed(followed)
    assert (gone.state, gone.cause, gone.exit_code) == (JobState.FAILED, CauseKind.EXIT, 7)
    killed = failed(a_pod("Failed", 0, 0, ended(113, {"lost": "x", "first": {"rank": 1, "signal": 9}})))
    assert (killed.cause, killed.signal, killed.exit_code) == (CauseKind.SIGNAL, 9, None)
    silent = a_pod("Failed", 0, 0, ended(113, {"lost": "node 1 is gone", "first": None}))
    assert failed(silent).exit_code == 113
    assert failed(silent, a_pod("Running", 1)).state is JobState.RUNNING, "who failed is told soon"


def test_the_first_of_the_last_attempt_that_failed_by_itself_is_to_blame() -> None:
    pods = [
        a_pod("Failed", 0, 0, ended(5, {"exit_code": 5, "at": 1.0})),
        a_pod("Failed", 0, 1, ended(113, {"lost": "node 2 is gone", "at": 2.0})),
        a_pod("Failed", 1, 1, ended(1, {"exit_code": 1, "at": 2.2})),
        a_pod("Failed", 2, 1, ended(9, {"exit_code": 9, "at": 2.1})),
    ]
    status = failed(*pods)
    assert (status.exit_code, status.attempt, status.message) == (9, 1, "node 2: ended with exit code 9")


@pytest.mark.parametrize(
    ("message", "cause", "exit_code"),
    [
        ("Container job for pod n/p failed with exit code 78 matching FailJob rule at index 1", CauseKind.EXIT, 78),
        ("Pod n/p has condition DisruptionTarget matching FailJob rule at index 0", CauseKind.PREEMPTED, None),
    ],
)
def test_a_pod_that_is_gone_is_known_by_its_jobs_words(message: str, cause: CauseKind, exit_code: int | None) -> None:
    job = a_job(("Failed", "PodFailurePolicy"))
    job["status"]["conditions"][0]["message"] = message
    status = read_status(job, [])
    assert (status.state, status.cause, status.exit_code) == (JobState.FAILED, cause, exit_code)


@pytest.mark.parametrize(
    ("reason", "message", "state"),
    [
        ("ErrImagePull", "manifest unknown", JobState.FAILED),
        ("ImagePullBackOff", "Back-off pulling image: i/o timeout", JobState.STARTING),
        ("InvalidImageName", "", JobState.FAILED),
        ("ErrImageNeverPull", "", JobState.FAILED),
        ("CreateContainerConfigError", 'secret "x" not found', JobState.STARTING),
        ("a new word", "", JobState.STARTING),
    ],
)
def test_only_an_image_that_is_surely_missing_is_an_end(reason: str, message: str, state: JobState) -> None:
    status = read_status(a_job(), [a_pod("Pending", state={"waiting": {"reason": reason, "message": message}})])
    assert status.state is state
    assert (status.cause is CauseKind.IMAGE_MISSING) is (state is JobState.FAILED)
    assert reason in status.message


def test_what_nobody_can_place_is_told_in_the_schedulers_words() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    status = read_status(a_job(), [a_pod("Pending", conditions=[condition])])
    assert (status.state, status.message) == (JobState.QUEUED, "Unschedulable: 0/3 nodes")


def test_the_tables_have_every_word_of_the_api_reference() -> None:
    assert {"Complete", "Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet"} <= set(CONDITIONS)
    assert {
        "BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy",
    } <= set(FAILURE_REASONS)  # fmt: skip
    assert set(POD_PHASES) == {"Pending", "Running", "Succeeded", "Failed", "Unknown"}
    assert set(DISRUPTIONS) == {
        "PreemptionByScheduler", "DeletionByTaintManager", "EvictionByEvictionAPI", "DeletionByPodGC",
        "TerminationByKubelet",
    }  # fmt: skip
    assert {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"} <= set(WAITING_REASONS)
    assert {"OOMKilled", "Error", "Completed"} <= set(TERMINATED_REASONS)
    assert {"Evicted", "NodeLost"} <= set(POD_REASONS)
