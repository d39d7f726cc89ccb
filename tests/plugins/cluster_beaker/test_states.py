"""Beaker's words and ours: complete tables, and the verdict over all nodes and starts of an experiment."""

from __future__ import annotations

from typing import Any

import pytest
from beaker import beaker_pb2 as pb2

from tunewright.clusters.beaker.states import CANCELATIONS, WORKLOAD_STATES, Try, status_of
from tunewright.contracts.status import CauseKind, JobState

AT = "2026-11-21T10:00:{:02d}+00:00".format


def ended(rank: int = 0, second: int = 10, **fields: Any) -> Try:
    """A start that ended, badly unless `status` says otherwise."""
    given = {"status": "STATUS_FAILED", "created_at": AT(0), "started_at": AT(1), "ended_at": AT(second), **fields}
    return Try(rank=rank, is_final=True, **given)


def canceled(code: str, rank: int = 0, second: int = 10, **fields: Any) -> Try:
    return ended(rank, second, status="STATUS_CANCELED", cancelation=f"CANCELATION_CODE_{code}", **fields)


def waiting(rank: int = 0, **fields: Any) -> Try:
    return Try(rank=rank, **{"status": "STATUS_QUEUED", "created_at": AT(30), **fields})


def test_every_word_of_beakers_protocol_is_in_the_tables() -> None:
    assert set(WORKLOAD_STATES) == set(pb2.WorkloadStatus.keys())
    assert set(CANCELATIONS) == set(pb2.CancelationCode.keys())


@pytest.mark.parametrize("word", [word for word, state in WORKLOAD_STATES.items() if not state.is_terminal])
def test_a_word_for_what_is_not_over_is_the_state_of_the_table(word: str) -> None:
    assert status_of(word, []).state is WORKLOAD_STATES[word]


def test_a_word_of_another_version_is_unknown_and_told() -> None:
    status = status_of("17", [])
    assert status.state is JobState.UNKNOWN
    assert "17" in status.message


@pytest.mark.parametrize(
    ("one", "state", "cause", "exit_code", "signal"),
    [
        (ended(exit_code=42), JobState.FAILED, CauseKind.EXIT, 42, None),
        (ended(exit_code=255), JobState.FAILED, CauseKind.EXIT, 255, None),
        (ended(exit_code=137), JobState.FAILED, CauseKind.SIGNAL, None, 9),
        (ended(exit_code=137, is_out_of_memory=True), JobState.FAILED, CauseKind.OUT_OF_MEMORY, None, 9),
        (ended(exit_code=1, message="container ran out of memory"), JobState.FAILED, CauseKind.OUT_OF_MEMORY, 1, None),
        (ended(exit_code=137, message="OOMKilled: over 1 GiB"), JobState.FAILED, CauseKind.OUT_OF_MEMORY, None, 9),
        (ended(exit_code=127, complaint="no program"), JobState.FAILED, CauseKind.IMAGE_MISSING, 127, None),
        (ended(started_at=None, message="image not found"), JobState.FAILED, CauseKind.IMAGE_MISSING, None, None),
        (ended(started_at=None, message="no such volume"), JobState.FAILED, None, None, None),
        (canceled("MANUAL"), JobState.STOPPED, CauseKind.STOPPED, None, None),
        (canceled("TIMEOUT"), JobState.TIMED_OUT, CauseKind.TIMEOUT, None, None),
        (canceled("SYSTEM_PREEMPTION"), JobState.FAILED, CauseKind.PREEMPTED, None, None),
        (canceled("NODE_UNAVAILABLE"), JobState.FAILED, CauseKind.NODE_LOST, None, None),
        (canceled("IDLE"), JobState.FAILED, CauseKind.EVICTED, None, None),
        (canceled("IMPOSSIBLE_TO_SCHEDULE"), JobState.FAILED, None, None, None),
    ],
)
def test_an_end_has_its_cause(
    one: Try, state: JobState, cause: CauseKind | None, exit_code: int | None, signal: int | None
) -> None:
    status = status_of("STATUS_CANCELED" if one.cancelation else "STATUS_FAILED", [one])
    assert (status.state, status.cause, status.exit_code, status.signal) == (state, cause, exit_code, signal)
    assert status.message
    assert status.ended_at == AT(10)


def test_success_is_exit_code_0() -> None:
    status = status_of("STATUS_SUCCEEDED", [ended(status="STATUS_SUCCEEDED", exit_code=0)])
    assert (status.state, status.cause, status.exit_code) == (JobState.SUCCEEDED, CauseKind.EXIT, 0)
    assert (status.started_at, status.ended_at) == (AT(1), AT(10))


def test_the_node_that_failed_by_itself_gives_the_verdict_and_is_named() -> None:
    tries = [canceled("SIBLING_TASK_FAILED", 0, 9), ended(1, 12, exit_code=7), canceled("SIBLING_TASK_FAILED", 2, 13)]
    status = status_of("STATUS_FAILED", tries)
    assert (status.state, status.exit_code, status.cause) == (JobState.FAILED, 7, CauseKind.EXIT)
    assert status.message == "node 1 ended with exit code 7"


def test_of_several_nodes_that_failed_the_first_gives_the_verdict() -> None:
    status = status_of("STATUS_FAILED", [ended(0, 20, exit_code=1), ended(1, 11, exit_code=137)])
    assert (status.signal, status.message) == (9, "node 1 was killed by SIGKILL")


def test_an_end_is_told_when_all_nodes_have_ended() -> None:
    tries = [Try(rank=0, status="STATUS_STOPPING", created_at=AT(0), started_at=AT(1)), ended(1, 12, exit_code=7)]
    assert status_of("STATUS_FAILED", tries).state is JobState.RUNNING


def test_a_preempted_job_is_preempted_until_it_waits_again() -> None:
    first = canceled("SYSTEM_PREEMPTION")
    assert status_of("STATUS_QUEUED", [first]).state is JobState.PREEMPTED
    assert status_of("STATUS_QUEUED", [first, waiting()]).state is JobState.REQUEUED
    again = Try(rank=0, status="STATUS_RUNNING", created_at=AT(30), started_at=AT(31))
    status = status_of("STATUS_RUNNING", [first, again])
    assert (status.state, status.attempt, status.started_at) == (JobState.RUNNING, 1, AT(1))


def test_attempts_are_starts_and_not_waits_in_the_queue() -> None:
    never_started = canceled("SYSTEM_PREEMPTION", started_at=None)
    assert status_of("STATUS_QUEUED", [never_started, waiting()]).attempt == 0
    tries = [ended(rank, 10, exit_code=1) for rank in (0, 1)] * 3
    assert status_of("STATUS_FAILED", tries).attempt == 2


def test_whoever_stopped_it_is_quoted() -> None:
    assert "by hand" in status_of("STATUS_CANCELED", [canceled("MANUAL")], "by hand").message
    never = status_of("STATUS_CANCELED", [], "by hand")
    assert (never.state, never.cause, never.message) == (JobState.STOPPED, CauseKind.STOPPED, "by hand")


def test_a_cancelation_of_another_version_is_a_failure_without_a_cause() -> None:
    status = status_of("STATUS_CANCELED", [canceled("SOMETHING_NEW")])
    assert (status.state, status.cause) == (JobState.FAILED, None)
