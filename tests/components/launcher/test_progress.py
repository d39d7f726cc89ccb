"""What is shown of a run, and what is read of its metrics."""

from __future__ import annotations

import json
from pathlib import Path

from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import CauseKind, JobState, JobStatus
from tunewright.launcher.events import record_event
from tunewright.launcher.follow import MetricsTail
from tunewright.launcher.progress import clock, json_line, metrics_text, seconds_left, state_text
from tunewright.launcher.run_store import last_line


def test_the_time_left_follows_from_the_pace_so_far() -> None:
    assert seconds_left({"step": 10, "max_steps": 40, "elapsed_seconds": 5.0}) == 15.0
    assert seconds_left({"step": 10}) is None
    assert clock(125.4) == "2:05" and clock(3723) == "1:02:03"


def test_a_step_in_words_says_what_is_known() -> None:
    line = {"step": 10, "max_steps": 40, "loss": 3.25, "tokens_per_second": 12345.6, "elapsed_seconds": 20.0}
    assert metrics_text(line) == "step 10/40  loss 3.2500  12,346 tokens/s  1:00 left"
    assert metrics_text({"step": 1}) == "step 1/?"


def test_a_state_in_words_has_its_cause() -> None:
    event = {"state": "FAILED", "cause": "out_of_memory", "message": "above 1 GiB"}
    assert state_text(event) == "failed (out of memory): above 1 GiB"
    assert state_text({"state": "FAILED", "cause": "exit", "exit_code": 42}) == "failed (exit code 42)"
    assert state_text({"state": "FAILED", "cause": "exit", "message": "ended with 42"}) == "failed: ended with 42"
    assert state_text({"state": "TIMED_OUT", "cause": "timeout"}) == "timed out (timeout)"
    assert state_text({"state": "SUCCEEDED", "cause": "exit", "exit_code": 0}) == "succeeded"


def test_a_loss_that_is_no_number_is_null_in_json() -> None:
    assert json.loads(json_line({"loss": float("nan"), "step": 1})) == {"loss": None, "step": 1}


def test_metrics_are_read_by_whole_lines_and_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    assert list(tail.new_lines()) == []
    path.write_text('{"step": 1}\n{"st')
    assert list(tail.new_lines()) == [{"step": 1}]
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert list(tail.new_lines()) == [{"step": 2}]
    assert list(tail.new_lines()) == []


def test_metrics_that_a_resumed_job_cut_back_are_read_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = MetricsTail(path)
    path.write_text('{"step": 1}\n{"step": 2}\n')
    assert len(list(tail.new_lines())) == 2
    path.write_text('{"step": 1}\n')
    assert list(tail.new_lines()) == []
    with path.open("a") as file:
        file.write('{"step": 2}\n')
    assert list(tail.new_lines()) == [{"step": 2}]


def test_the_last_line_of_a_large_file_is_found_and_a_half_written_one_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}}}\n' for step in range(20000)) + '{"step": 2')
    assert last_line(path) == {"step": 19999}
    assert last_line(tmp_path / "none") == {}


def test_a_launcher_that_is_slow_to_write_does_not_bring_an_ended_job_back(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    running, failed = (
        JobStatus(state=JobState.RUNNING),
        JobStatus(state=JobState.FAILED, cause=CauseKind.EXIT, exit_code=1),
    )
    for status in (running, running, failed, running, failed):
        record_event(run, status)
    states = [json.loads(line)["state"] for line in run.events.read_text().splitlines()]
    assert states == ["RUNNING", "FAILED"]
    record_event(run, JobStatus(state=JobState.PENDING), is_new_submission=True)
    record_event(run, running)
    states = [json.loads(line)["state"] for line in run.events.read_text().splitlines()]
    assert states == ["RUNNING", "FAILED", "PENDING", "RUNNING"]
