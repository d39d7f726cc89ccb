"""Exit codes of runs: 42 stays 42, a signal is 128+n, 75 where trying again may help."""

from __future__ import annotations

import pytest

from tunewright.contracts.status import CauseKind, JobState, JobStatus


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (JobStatus(state=JobState.SUCCEEDED, exit_code=0), 0),
        (JobStatus(state=JobState.FAILED, cause=CauseKind.EXIT, exit_code=42), 42),
        (JobStatus(state=JobState.FAILED, cause=CauseKind.EXIT, exit_code=1), 1),
        (JobStatus(state=JobState.FAILED, cause=CauseKind.SIGNAL, signal=9), 137),
        (JobStatus(state=JobState.FAILED, cause=CauseKind.SIGNAL, signal=15), 143),
        (JobStatus(state=JobState.FAILED, cause=CauseKind.OUT_OF_MEMORY, signal=9), 137),
        (JobStatus(state=JobState.FAILED, cause=CauseKind.OUT_OF_MEMORY), 137),
        (JobStatus(state=JobState.FAILED, cause=CauseKind.NODE_LOST), 75),
        (JobStatus(state=JobState.FAILED, cause=CauseKind.PREEMPTED), 75),
        (JobStatus(state=JobState.FAILED, cause=CauseKind.IMAGE_MISSING), 1),
        (JobStatus(state=JobState.FAILED), 1),
        (JobStatus(state=JobState.STOPPED, cause=CauseKind.STOPPED, signal=15), 75),
        (JobStatus(state=JobState.TIMED_OUT, cause=CauseKind.TIMEOUT, signal=9), 75),
        (JobStatus(state=JobState.NOT_FOUND), 66),
    ],
)
def test_the_exit_code_of_a_run(status: JobStatus, code: int) -> None:
    assert status.shell_exit_code == code


def test_the_states_are_the_promised_ones_and_five_of_them_are_the_end() -> None:
    assert " ".join(JobState) == (
        "PENDING QUEUED STARTING RUNNING PREEMPTED REQUEUED SUCCEEDED FAILED STOPPED TIMED_OUT NOT_FOUND UNKNOWN"
    )
    ended = {state.value for state in JobState if state.is_terminal}
    assert ended == {"SUCCEEDED", "FAILED", "STOPPED", "TIMED_OUT", "NOT_FOUND"}


def test_a_status_reads_back_from_its_document() -> None:
    status = JobStatus(state=JobState.FAILED, cause=CauseKind.EXIT, exit_code=3, attempt=1, message="three")
    assert JobStatus.model_validate(status.to_document()) == status
