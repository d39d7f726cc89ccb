"""From a supervisor's words to a job's status."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tunewright.clusters.local import supervisor
from tunewright.clusters.local.backend import LocalCluster
from tunewright.clusters.local.states import LOCAL_STATES, read_status, seen_from_afar, without_supervisor
from tunewright.contracts.status import CauseKind, JobState

PLAN: dict[str, Any] = {"memory_gib": 2.0, "time_limit_seconds": 5.0}


def test_every_word_a_supervisor_writes_is_in_the_table() -> None:
    words = set(re.findall(r'"([A-Z]{4,}(?:_[A-Z]+)*)"', LocalCluster.supervisor_source()))
    states = {word for word in words if word in JobState.__members__}
    assert states == LOCAL_STATES.keys()


def test_every_cause_a_supervisor_writes_is_one_of_ours() -> None:
    for ended_by, status, kills in (("timeout", 9, 0), ("memory", 9, 0), ("stopped by a user", 15, 0), (None, 0, 0),
                                    (None, 9, 1), (None, 9, 0), (None, 256, 0)):  # fmt: skip
        told = read_status({**supervisor.judge(ended_by, status, kills, PLAN), "attempt": 1})
        assert told.state.is_terminal
        assert told.cause is not None


@pytest.mark.parametrize(
    "document", [{}, {"state": "DANCING"}, {"state": ["RUNNING"]}, {"state": "RUNNING", "cause": "x"}]
)
def test_a_document_of_no_supervisor_is_unknown(document: dict[str, Any]) -> None:
    assert read_status(document).state is JobState.UNKNOWN


def test_a_running_job_without_supervisor_was_lost_with_it() -> None:
    lost = without_supervisor(read_status({"state": "RUNNING", "attempt": 1}), "no space left")
    assert (lost.state, lost.cause, lost.attempt) == (JobState.FAILED, CauseKind.NODE_LOST, 1)
    assert "no space left" in lost.message
    assert lost.shell_exit_code == 75


def test_an_ended_job_needs_no_supervisor() -> None:
    ended = read_status({"state": "SUCCEEDED", "exit_code": 0})
    assert without_supervisor(ended, "") == ended
    assert seen_from_afar(ended, "other") == ended


def test_another_machines_job_is_told_as_last_written() -> None:
    told = seen_from_afar(read_status({"state": "RUNNING"}), "other")
    assert told.state is JobState.RUNNING
    assert "`other`" in told.message


def test_a_job_that_succeeds_although_a_child_was_killed_for_memory_has_succeeded() -> None:
    assert supervisor.judge(None, 0, 3, PLAN)["state"] == "SUCCEEDED"


def test_a_full_machine_is_told_apart_without_a_limit_too() -> None:
    told = supervisor.judge(None, 9, 1, {"memory_gib": None})
    assert (told["cause"], told["signal"]) == ("out_of_memory", 9)
    assert "machine" in told["message"]
