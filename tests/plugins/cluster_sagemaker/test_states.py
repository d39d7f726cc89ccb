"""From SageMaker's words to a job's status."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from plugins.cluster_sagemaker.sagemaker_jobs import model
from tunewright.clusters.sagemaker.states import SECONDARY_STATES, TRAINING_STATES, needs_description, read_status
from tunewright.contracts.status import CauseKind, JobState


def test_every_word_that_aws_has_for_a_job_has_a_meaning() -> None:
    assert set(model().shape_for("TrainingJobStatus").enum) == TRAINING_STATES.keys()
    assert set(model().shape_for("SecondaryStatus").enum) == SECONDARY_STATES.keys()


@pytest.mark.parametrize(
    ("word", "second", "state"),
    [
        ("InProgress", "Pending", JobState.QUEUED), ("InProgress", "Downloading", JobState.STARTING),
        ("InProgress", "Training", JobState.RUNNING), ("InProgress", "Interrupted", JobState.PREEMPTED),
        ("InProgress", "Restarting", JobState.REQUEUED), ("InProgress", "Completed", JobState.RUNNING),
        ("Stopping", "Stopping", JobState.RUNNING), ("Stopped", "Stopped", JobState.STOPPED),
        ("Stopped", "MaxRuntimeExceeded", JobState.TIMED_OUT), ("Stopped", "MaxWaitTimeExceeded", JobState.TIMED_OUT),
        ("Completed", "Completed", JobState.SUCCEEDED), ("Failed", "Failed", JobState.FAILED),
        ("Deleting", "", JobState.UNKNOWN), ("Dancing", "Training", JobState.UNKNOWN),
    ],
)  # fmt: skip
def test_both_words_together_make_the_state(word: str, second: str, state: JobState) -> None:
    assert read_status({"TrainingJobStatus": word, "SecondaryStatus": second}).state is state


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("AlgorithmError: node 1, attempt 2: exit code 42, exit code: 42", (CauseKind.EXIT, 42, None, 2)),
        ("AlgorithmError: node 0, attempt 0: signal 9, exit code: 137", (CauseKind.SIGNAL, None, 9, 0)),
        ("AlgorithmError: node 0, attempt 1: out of memory, signal 9, exit code: 137",
         (CauseKind.OUT_OF_MEMORY, None, 9, 1)),
        ("AlgorithmError: , exit code: 3", (CauseKind.EXIT, 3, None, 0)),
        ("AlgorithmError: , exit code: 143", (CauseKind.SIGNAL, None, 15, 0)),
        ("ClientError: Please use an instance type with more memory, or reduce the size of job data processed on an "
         "instance.", (CauseKind.OUT_OF_MEMORY, None, None, 0)),
        ("ClientError: Cannot pull algorithm container. Either the image does not exist or its permissions are "
         "incorrect.", (CauseKind.IMAGE_MISSING, None, None, 0)),
        ("InternalServerError: We encountered an internal error. Please try again.",
         (CauseKind.NODE_LOST, None, None, 0)),
        ("CapacityError: Unable to provision requested ML compute capacity.", (None, None, None, 0)),
        ("", (None, None, None, 0)),
    ],
)  # fmt: skip
def test_the_cause_is_in_the_failure_reason(reason: str, told: tuple[Any, ...]) -> None:
    status = read_status({"TrainingJobStatus": "Failed", "SecondaryStatus": "Failed", "FailureReason": reason})
    assert (status.cause, status.exit_code, status.signal, status.attempt) == told
    assert status.message == reason


def test_restarts_of_sagemakers_own_are_attempts_and_times_are_told() -> None:
    moment = datetime(2026, 11, 21, 10, 0, 1, 500_000, tzinfo=UTC)
    transitions = [{"Status": "Training"}, {"Status": "Restarting"}, {"Status": "Training", "StatusMessage": "going"}]
    status = read_status({
        "TrainingJobStatus": "Completed", "SecondaryStatus": "Completed", "TrainingStartTime": moment,
        "TrainingEndTime": moment, "SecondaryStatusTransitions": transitions,
    })  # fmt: skip
    assert (status.attempt, status.message, status.exit_code) == (1, "going", 0)
    assert (status.started_at, status.ended_at) == ("2026-11-21T10:00:01.500Z",) * 2


def test_only_a_line_that_does_not_say_enough_needs_a_description() -> None:
    lines = [("Completed", {}), ("InProgress", {"SecondaryStatus": "Training"}), ("InProgress", {}), ("Failed", {})]
    assert [needs_description({"TrainingJobStatus": word, **more}) for word, more in lines] == [False] * 2 + [True] * 2
