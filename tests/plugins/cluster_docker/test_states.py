"""From what is written in `state.json`, and from Docker's own words, to a status."""

from __future__ import annotations

import pytest

from tunewright.clusters.docker.states import (
    CONTAINER_STATES,
    is_afar,
    read_status,
    seen_from_afar,
    without_supervisor,
)
from tunewright.contracts.status import CauseKind, JobState, JobStatus


def test_a_whole_document_is_read() -> None:
    document = {
        "state": "FAILED", "cause": "out_of_memory", "exit_code": None, "signal": 9, "attempt": 2, "message": "why",
        "started_at": "2026-11-21T10:00:00.000Z", "ended_at": "2026-11-21T10:00:01.000Z", "containers": ["x"],
    }  # fmt: skip
    status = read_status(document)
    assert (status.state, status.cause, status.signal, status.attempt) == (
        JobState.FAILED, CauseKind.OUT_OF_MEMORY, 9, 2,
    )  # fmt: skip


@pytest.mark.parametrize("document", [{}, {"state": None}, {"state": "JUMPING"}, {"state": "RUNNING", "attempt": "x"}])
def test_what_no_supervisor_writes_is_unknown_in_words(document: dict[str, object]) -> None:
    status = read_status(document)
    assert status.state is JobState.UNKNOWN
    assert "state.json" in status.message


def test_every_word_docker_has_for_a_container_has_a_meaning() -> None:
    words = {"created", "running", "paused", "restarting", "removing", "exited", "dead"}
    assert set(CONTAINER_STATES) == words


@pytest.mark.parametrize(
    ("words", "state"),
    [
        (["running", "running"], JobState.RUNNING),
        (["running", "exited"], JobState.UNKNOWN),
        (["exited"], JobState.UNKNOWN),
        (["gone"], JobState.UNKNOWN),
        ([], JobState.UNKNOWN),
    ],
)
def test_without_a_supervisor_only_what_surely_runs_is_running(words: list[str], state: JobState) -> None:
    status = without_supervisor(JobStatus(state=JobState.RUNNING), words, "it was killed")
    assert status.state is state
    assert "it was killed" in status.message


def test_a_job_of_another_machine_is_left_alone_and_one_of_a_restarted_machine_is_not() -> None:
    here = {"host": "here", "boot": "2"}
    assert is_afar({"place": {"host": "there", "boot": "1"}}, here)
    assert not is_afar({"place": {"host": "here", "boot": "1"}}, here)
    seen = seen_from_afar(JobStatus(state=JobState.RUNNING), "there")
    assert (seen.state, "`there`" in seen.message) == (JobState.RUNNING, True)
