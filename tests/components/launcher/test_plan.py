"""`plan` says exactly what `launch` sends, and changes nothing."""

from __future__ import annotations

import json

import pytest

from components.launcher.project import FAILING, Project

# Sees every socket and every file opened for writing, in Python's own words; subprocesses are told apart by name.
WATCH = """
import os, sys
def watch(event, arguments):
    if event.startswith("socket."):
        os.write(2, f"FORBIDDEN {event}\\n".encode())
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and arguments[0] != "/dev/null":
        os.write(2, f"FORBIDDEN write {arguments[0]}\\n".encode())
    if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "shutil.rmtree"):
        os.write(2, f"FORBIDDEN {event} {arguments}\\n".encode())
    if event == "subprocess.Popen" and arguments[0] != "git":
        os.write(2, f"FORBIDDEN process {arguments[0]}\\n".encode())
sys.addaudithook(watch)
"""


def test_plan_opens_no_socket_and_writes_no_file(project: Project) -> None:
    before = {path: path.stat().st_mtime_ns for top in (project.root, project.home) for path in top.rglob("*")}
    planned = project.start("plan", "count.toml", before=WATCH)
    out, err = planned.communicate(timeout=50)
    assert planned.returncode == 0 and '"train"' in out
    assert "FORBIDDEN" not in err, err
    after = {path: path.stat().st_mtime_ns for top in (project.root, project.home) for path in top.rglob("*")}
    assert after == before


def test_the_watch_above_sees_what_a_launch_does(project: Project) -> None:
    launched = project.start("launch", "count.toml", before=WATCH)
    _, err = launched.communicate(timeout=50)
    assert launched.returncode == 0
    assert "FORBIDDEN write" in err and "FORBIDDEN os.rename" in err and "FORBIDDEN process" in err


def test_plan_twice_gives_equal_bytes_in_every_process(project: Project) -> None:
    first = project.launcher("plan", "count.toml", "--json").out
    other, _ = project.start("plan", "count.toml", "--json").communicate(timeout=50)
    assert first == other


def test_a_launch_sends_what_plan_said(project: Project) -> None:
    document = project.launcher("plan", "count.toml", *FAILING, "--json").document
    assert (document["run"], document["cluster"]) == ("count", "yard")
    project.launcher("launch", "count.toml", *FAILING, expect=42)
    sent = {path.name: path.read_text() for path in (project.run() / "plan").iterdir()}
    assert document["files"] == sent
    assert document["job"]["command"] == project.json("count", "job.json")["command"]
    assert project.launcher("plan", "count.toml", "--json").document["run"] == "count-2"
    assert project.launcher("plan", "count.toml", "--name", "mine", "--json").document["run"] == "mine"


def test_the_job_gets_the_dataset_where_the_variable_keeps_them(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE_ROOT", "s3://bucket/caches")
    dataset = project.launcher("plan", "count.toml", "--json").document["job"]["dataset"]
    assert dataset["path"] == f"s3://bucket/caches/{dataset['digest']}"


def test_plan_prints_the_clusters_own_words(project: Project) -> None:
    out = project.launcher("plan", "count.toml", "--set", "cluster.options.gate=/no/gate").out
    assert out.startswith("==> yard.json <==\n") and "==> gate <==\n/no/gate\n" in out
    first = out.removeprefix("==> yard.json <==\n").partition("==> gate")[0]
    assert json.loads(first)["argv"][-2] == "train"


def test_plan_refuses_what_launch_refuses_and_plans_a_dirty_tree_when_it_is_allowed(project: Project) -> None:
    (project.root / "stray").touch()
    answer = project.launcher("plan", "count.toml", expect=77)
    assert answer.out == "" and "git-tree-dirty" in answer.err
    answer = project.launcher("plan", "count.toml", "--allow-dirty", "--json")
    assert answer.document["job"]["origin"]["code"]["dirty"] is True
    assert "warning" in answer.err


def test_diff_shows_what_differs_from_a_run(project: Project) -> None:
    project.launcher("launch", "count.toml")
    same = ("plan", "count.toml", "--name", "count", "--diff", "count")
    assert project.launcher(*same).out == ""
    out = project.launcher(*same, "--set", "training.options.exit_code=3", "--set", "cluster.options.gate=shut").out
    assert "--- count/resolved.json\n+++ now/resolved.json\n" in out
    assert '-      "exit_code": 0,\n' in out and '+      "exit_code": 3,\n' in out
    assert "--- count/plan/gate\n+++ now/plan/gate\n" in out and "+shut\n" in out
    as_json = project.launcher(*same, "--json").document
    assert as_json == {"run": "count", "other": "count", "diff": ""}
    assert "no run `none`" in project.launcher("plan", "count.toml", "--diff", "none", expect=66).err
