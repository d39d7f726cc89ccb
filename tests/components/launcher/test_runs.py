"""Finding runs again: `list`, `status`, `wait`, `logs`, `stop`, `events`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from components.launcher.project import FAILING, SLOW, Project, wait_until


def test_list_asks_each_cluster_once_and_shows_where_every_run_stands(project: Project) -> None:
    for arguments in (("--name", "fine"), ("--name", "bad", *FAILING), ("--name", "slow", *SLOW)):
        project.launcher("launch", "count.toml", *arguments, "--detach")
    project.wait_for_step(1, "slow")
    for run in ("fine", "bad"):
        project.launcher("wait", run, expect=42 if run == "bad" else 0)
    (project.home / "asked").unlink()
    rows = {row["run"]: row for row in project.launcher("list", "--json").document}
    assert (project.home / "asked").read_text() == "3\n"
    assert {run: row["state"] for run, row in rows.items()} == {"fine": "SUCCEEDED", "bad": "FAILED", "slow": "RUNNING"}
    assert rows["fine"]["step"] == 3 and rows["fine"]["cluster"] == "yard"
    table = [line.split() for line in project.launcher("list").out.splitlines()]
    assert table[0] == ["run", "state", "cluster", "step", "loss", "started"]
    assert ["fine", "SUCCEEDED", "yard", "3", "1.3333", "-"] in table


def test_list_writes_the_record_of_a_run_that_nobody_watched(project: Project) -> None:
    project.launcher("launch", "count.toml", *FAILING, "--detach")
    wait_until(lambda: list(project.run().glob("yard/*/end")), "the end of the job")
    project.launcher("list")
    assert project.json("count", "provenance.json")["outcome"]["exit_code"] == 42


def test_a_cluster_that_cannot_be_asked_makes_its_runs_unknown_with_its_name(project: Project) -> None:
    launch_for_a_cluster_that_stumbles(project)
    (project.run() / "provenance.json").unlink()
    row = project.launcher("list", "--json").document[0]
    assert row["state"] == "UNKNOWN" and "stranger" in row["message"] and "stumbled" in row["message"]


def test_a_run_with_its_record_needs_no_cluster_to_tell_its_end(project: Project) -> None:
    launch_for_a_cluster_that_stumbles(project)
    row = project.launcher("list", "--json").document[0]
    assert row["state"] == "SUCCEEDED"


def launch_for_a_cluster_that_stumbles(project: Project) -> None:
    project.launcher("launch", "count.toml")
    project.launcher("launch", "count.toml", "--cluster", "clumsy", "--detach", expect=78)
    job = project.json("count", "job.json")
    job["experiment"]["cluster"]["name"] = "clumsy"
    (project.run() / "job.json").write_text(json.dumps(job))


def test_status_tells_details(project: Project) -> None:
    project.launcher("launch", "count.toml", *FAILING, expect=42)
    document = project.launcher("status", "count", "--json").document
    assert (document["state"], document["exit_code"], document["cause"]) == ("FAILED", 42, "exit")
    assert (document["step"], document["max_steps"], document["loss"]) == (2, 3, 2.0)
    assert document["native_id"] == project.json("count", "handle.json")["native_id"]
    text = project.launcher("status", "count").out
    assert "state       FAILED\n" in text and "exit code   42\n" in text


def test_a_job_its_cluster_has_forgotten_is_still_known_by_its_record(project: Project) -> None:
    project.launcher("launch", "count.toml", *FAILING, expect=42)
    handle = project.json("count", "handle.json")
    Path(handle["data"]).rename(project.home / "away")
    assert project.launcher("status", "count", "--json").document["exit_code"] == 42
    (project.run() / "provenance.json").unlink()
    assert project.launcher("status", "count", "--json").document["state"] == "NOT_FOUND"
    project.launcher("wait", "count", expect=66)
    assert not (project.run() / "provenance.json").exists()


def test_the_page_of_a_job_is_shown_where_its_cluster_has_pages(project: Project) -> None:
    project.launcher("launch", "count.toml")
    assert "url" not in project.launcher("list").out
    project.launcher("launch", "count.toml", "--cluster", "paged")
    page = f"https://yard.example/{project.json('count-2', 'handle.json')['native_id']}"
    rows = {row["run"]: row["url"] for row in project.launcher("list", "--json").document}
    assert rows == {"count": None, "count-2": page}
    assert page in project.launcher("list").out and f"  {page}\n" in project.launcher("status", "count-2").out
    assert project.launcher("status", "count-2", "--json").document["url"] == page


def test_wait_is_quiet_until_the_end(project: Project) -> None:
    project.launcher("launch", "count.toml", "--detach")
    answer = project.launcher("wait", "count")
    assert "step" not in answer.err and answer.out.startswith("count: succeeded\n")


def test_wait_gives_up_in_time_with_75(project: Project) -> None:
    project.launcher("launch", "count.toml", *SLOW, "--detach")
    started = time.monotonic()
    answer = project.launcher("wait", "count", "--timeout", "0.3", expect=75)
    assert time.monotonic() - started < 60, "it waited for the run's 100 seconds"
    assert "has not ended within 0.3 seconds" in answer.err
    assert project.launcher("status", "count", "--json").document["state"] == "RUNNING"


def test_logs_are_the_exact_bytes(project: Project) -> None:
    (project.root / "train.py").write_text("import sys\nsys.stdout.buffer.write(bytes(range(256)) + b'\\r\\n\\xff')\n")
    project.git("commit", "--quiet", "-am", "bytes")
    project.launcher("launch", "count.toml")
    assert project.launcher("logs", "count").raw == bytes(range(256)) + b"\r\n\xff"


def test_logs_as_json_are_a_line_each_and_since_starts_later(project: Project) -> None:
    project.launcher("launch", "count.toml")
    lines = [json.loads(line)["line"] for line in project.launcher("logs", "count", "--json").out.splitlines()]
    assert lines[0].startswith("start 0") and lines[-1] == "no newline at the end"
    assert project.launcher("logs", "count", "--since", str(len(lines[0]) + 1)).out == "no newline at the end"


def test_a_replica_that_is_not_there_is_refused(project: Project) -> None:
    project.launcher("launch", "count.toml")
    assert "has 1 node(s)" in project.launcher("logs", "count", "--replica", "1", expect=64).err


def test_stop_ends_the_job_and_wait_exits_75(project: Project) -> None:
    project.launcher("launch", "count.toml", *SLOW, "--detach")
    project.wait_for_step(1)
    assert project.launcher("stop", "count", "--json").document["state"] == "STOPPED"
    steps = len(project.lines("count", "metrics.jsonl"))
    time.sleep(0.4)
    assert len(project.lines("count", "metrics.jsonl")) == steps
    project.launcher("wait", "count", expect=75)
    assert project.json("count", "provenance.json")["outcome"]["cause"] == "stopped"


def test_stop_leaves_a_run_that_has_ended_as_it_is(project: Project) -> None:
    project.launcher("launch", "count.toml")
    assert project.launcher("stop", "count", "--json").document["state"] == "SUCCEEDED"


def test_events_are_told_with_time_and_cause(project: Project) -> None:
    project.launcher("launch", "count.toml", *FAILING, expect=42)
    lines = project.launcher("events", "count", "--json").out.splitlines()
    assert [json.loads(line) for line in lines] == project.lines("count", "events.jsonl")
    assert set(json.loads(lines[-1])) == {"time", "state", "cause", "exit_code", "signal", "attempt", "message"}
    assert "FAILED (exit)" in project.launcher("events", "count").out.splitlines()[-1]


@pytest.mark.parametrize("command", ["status", "list", "events", "wait"])
def test_the_end_of_a_job_that_was_killed_with_nobody_there_is_told_once_by_who_asks_first(
    project: Project, command: str
) -> None:
    killed = ("training.options.mode=killed", "training.options.stop_at_step=1")
    project.launcher("launch", "count.toml", *(word for one in killed for word in ("--set", one)), "--detach")
    wait_until(lambda: list(project.run().glob("yard/*/end")), "the job's end")
    assert [line.split()[0] for line in project.heard()] == ["submitted"]
    project.launcher(*([command] if command == "list" else [command, "count"]), expect=137 if command == "wait" else 0)
    assert project.heard()[1:] == ["finished count FAILED"]
    project.launcher("wait", "count", expect=137)
    project.launcher("status", "count")
    assert project.heard()[1:] == ["finished count FAILED"]


def test_runs_are_found_from_a_directory_inside_the_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(project.root / ".tunewright"))
    project.launcher("launch", "count.toml")
    monkeypatch.setenv("TUNEWRIGHT_HOME", "")
    monkeypatch.chdir(project.root / "model")
    rows = project.launcher("list", "--json").document
    assert [row["run"] for row in rows] == ["count"]
