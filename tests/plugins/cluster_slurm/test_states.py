"""From Slurm's words and the job's own files to a status. Needs no Slurm."""

from __future__ import annotations

from typing import Any

import pytest

from tunewright.clusters.slurm.states import SLURM_STATES, SlurmWord, judge, read_verdict
from tunewright.contracts.status import CauseKind, JobState

RUNNING = {"state": "RUNNING", "attempt": 1, "nodes": ["n1", "n2"], "started_at": "2026-01-01T00:00:00Z"}
SUCCEEDED = {**RUNNING, "state": "SUCCEEDED", "exit_code": 0, "ended_at": "2026-01-01T00:01:00Z"}
FAILED = {**SUCCEEDED, "state": "FAILED", "exit_code": 7, "cause": "exit", "message": "exit code 7 on node n2 (1 of 2)"}
KILLED = {**SUCCEEDED, "state": "FAILED", "exit_code": None, "signal": 9, "cause": "signal", "message": "signal 9"}

WORDS_OF_THE_MANUAL = """
BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY
PENDING PREEMPTED RUNNING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING REVOKED SIGNALING SPECIAL_EXIT
STAGE_OUT STOPPED SUSPENDED TIMEOUT
"""


def word(state: str, **fields: Any) -> SlurmWord:
    return SlurmWord(state, "r.0", **fields)


def verdict(
    state: str, told: dict[str, Any] | None = None, **fields: Any
) -> tuple[JobState, CauseKind | None, int | None]:
    status = judge(word(state, **fields), {"state": told} if told else {})
    return status.state, status.cause, status.exit_code


def test_every_word_of_slurms_manual_has_its_meaning() -> None:
    assert set(WORDS_OF_THE_MANUAL.split()) <= set(SLURM_STATES)
    for one in SLURM_STATES:
        assert judge(word(one), {}).state is not JobState.UNKNOWN


@pytest.mark.parametrize(
    ("state", "told", "fields", "expected"),
    [
        ("PENDING", None, {}, (JobState.QUEUED, None, None)),
        ("PENDING", RUNNING, {}, (JobState.REQUEUED, None, None)),
        ("RUNNING", None, {}, (JobState.STARTING, None, None)),
        ("RUNNING", RUNNING, {}, (JobState.RUNNING, None, None)),
        ("COMPLETING", SUCCEEDED, {}, (JobState.RUNNING, None, None)),
        ("COMPLETED", SUCCEEDED, {}, (JobState.SUCCEEDED, None, 0)),
        ("COMPLETED", None, {}, (JobState.SUCCEEDED, None, 0)),
        ("FAILED", FAILED, {"exit_code": 7}, (JobState.FAILED, CauseKind.EXIT, 7)),
        ("FAILED", RUNNING, {"exit_code": 3}, (JobState.FAILED, CauseKind.EXIT, 3)),
        ("FAILED", None, {"reason": "JobLaunchFailure"}, (JobState.FAILED, CauseKind.NODE_LOST, None)),
        ("OUT_OF_MEMORY", KILLED, {}, (JobState.FAILED, CauseKind.OUT_OF_MEMORY, None)),
        ("OUT_OF_MEMORY", SUCCEEDED, {}, (JobState.SUCCEEDED, None, 0)),
        ("OUT_OF_MEMORY", FAILED, {}, (JobState.FAILED, CauseKind.EXIT, 7)),
        ("OUT_OF_MEMORY", None, {}, (JobState.FAILED, CauseKind.OUT_OF_MEMORY, None)),
        ("CANCELLED", FAILED, {}, (JobState.STOPPED, CauseKind.STOPPED, None)),
        ("CANCELLED", None, {"reason": "DependencyNeverSatisfied"}, (JobState.STOPPED, CauseKind.DEPENDENCY, None)),
        ("TIMEOUT", RUNNING, {}, (JobState.TIMED_OUT, CauseKind.TIMEOUT, None)),
        ("NODE_FAIL", RUNNING, {}, (JobState.FAILED, CauseKind.NODE_LOST, None)),
        ("PREEMPTED", RUNNING, {}, (JobState.FAILED, CauseKind.PREEMPTED, None)),
        ("NEW_WORD", RUNNING, {}, (JobState.UNKNOWN, None, None)),
    ],
)  # fmt: skip
def test_slurm_says_whether_and_the_job_says_how(
    state: str, told: dict[str, Any] | None, fields: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    assert verdict(state, told, **fields) == expected


def test_what_slurm_has_forgotten_is_told_by_what_was_written() -> None:
    assert judge(None, {"state": SUCCEEDED}).state is JobState.SUCCEEDED
    assert judge(None, {"state": FAILED}).exit_code == 7
    lost = judge(None, {"state": RUNNING})
    assert (lost.state, lost.cause, lost.attempt) == (JobState.FAILED, CauseKind.NODE_LOST, 1)
    assert "n1, n2" in lost.message
    assert judge(None, {"submitted": {"id": "1", "is_after": True}}).cause is CauseKind.DEPENDENCY
    assert judge(None, {"submitted": {"id": "1", "is_after": False}}).cause is CauseKind.STOPPED
    assert judge(None, {}).state is JobState.NOT_FOUND


def test_a_row_of_squeue_is_read() -> None:
    row = ["7_1", "FAILED", "NonZeroExitCode", "1792", "2026-11-21T22:15:54", "2026-11-21T22:15:57", "n[1-2]", "r.0"]
    read = SlurmWord.from_queue(row)
    assert read == SlurmWord(
        "FAILED", "r.0", "NonZeroExitCode", 7, None, "2026-11-21T22:15:54Z", "2026-11-21T22:15:57Z", "n[1-2]"
    )
    waiting = SlurmWord.from_queue(["8", "PENDING", "Priority", "0", "N/A", "N/A", "", "r.0"])
    assert (waiting.started_at, waiting.ended_at) == (None, None)
    assert SlurmWord.from_queue(["8", "FAILED", "RaisedSignal:9", "9", "N/A", "N/A", "", "r.0"]).signal == 9


def test_a_row_of_sacct_is_read() -> None:
    read = SlurmWord.from_accounts(["7", "CANCELLED by 1000", "0:15", "2026-11-21T22:15:54", "Unknown", "n1", "r.0"])
    assert read == SlurmWord("CANCELLED", "r.0", "", 0, 15, "2026-11-21T22:15:54Z", None, "n1")


def test_times_and_attempts_are_the_jobs_own_where_it_has_told_them() -> None:
    status = judge(
        word("FAILED", started_at="2026-02-02T00:00:00Z", ended_at="2026-02-02T00:00:09Z"), {"state": FAILED}
    )
    assert (status.started_at, status.ended_at, status.attempt) == (FAILED["started_at"], FAILED["ended_at"], 1)
    status = judge(word("TIMEOUT", started_at="2026-02-02T00:00:00Z", ended_at="2026-02-02T00:00:09Z"), {})
    assert (status.started_at, status.ended_at) == ("2026-02-02T00:00:00Z", "2026-02-02T00:00:09Z")


def test_of_a_job_that_waited_the_accounts_tell_only_that_it_was_cancelled() -> None:
    waited = {"submitted": {"id": "1", "is_after": True}}
    assert judge(word("CANCELLED"), waited).cause is CauseKind.DEPENDENCY
    assert judge(word("CANCELLED"), {**waited, "stop": {"is_asked_for": True}}).cause is CauseKind.STOPPED
    assert judge(word("CANCELLED", reason="None"), waited).cause is CauseKind.STOPPED
    assert judge(word("CANCELLED"), {**waited, "state": RUNNING}).cause is CauseKind.STOPPED


def test_a_job_that_slurm_took_away_and_forgot_was_stopped() -> None:
    taken = {**RUNNING, "state": "TAKEN", "message": "ended by signal 15"}
    assert judge(None, {"state": taken}).cause is CauseKind.STOPPED
    assert judge(word("PENDING"), {"state": taken}).state is JobState.REQUEUED
    assert judge(word("TIMEOUT"), {"state": taken}).state is JobState.TIMED_OUT


def test_a_file_that_is_not_ours_is_no_verdict() -> None:
    assert read_verdict({"state": "SUCCEEDED", "exit_code": 0}).state is JobState.SUCCEEDED
    assert read_verdict({"state": "FINE"}).state is JobState.UNKNOWN
    assert judge(word("FAILED"), {"state": {**FAILED, "cause": "no such"}}).state is JobState.FAILED
