"""Sweeps: a grid checked as a whole, prepared once, sent, followed together, compared, gone on with."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.launcher.project import HELD, Project, wait_until
from tunewright.contracts.plugins import PluginHost
from tunewright.launcher import sweep as sweep_module
from tunewright.launcher.grid import parse_grid
from tunewright.launcher.prepare import ExperimentArguments, check_experiments
from tunewright.launcher.sweep import check_sweep, plan_points, vary

pytestmark = pytest.mark.timeout(180)

TWO_BY_TWO = ("--grid", "training.learning_rate=1e-3,2e-3", "--grid", "training.max_steps=2,4")
PACED = ("--set", "training.options.pause_seconds=0.1")


def rows_of(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["run"]: row for row in document["runs"]}


def largest_overlap(project: Project, sweep: str) -> int:
    """How many runs of a sweep were running at one time at most, by when their jobs wrote."""
    spans = []
    for log in project.home.glob(f"runs/{sweep}-*/logs/0.log"):
        times = sorted(path.stat().st_mtime for path in log.parents[1].glob("checkpoints/*"))
        spans.append((times[0], times[-1]))
    return max(sum(1 for begun, ended in spans if begun <= moment <= ended) for moment, _ in spans)


def test_every_point_is_a_run_of_its_own_and_the_results_come_in_grid_order(project: Project) -> None:
    document = project.launcher("sweep", "count.toml", *TWO_BY_TWO, "--name", "grid", "--json").last_document
    assert (document["sweep"], document["state"], document["exit_code"]) == ("grid", "SUCCEEDED", 0)
    points = [tuple(row["point"].values()) for row in document["runs"]]
    assert points == [(0.001, 2), (0.001, 4), (0.002, 2), (0.002, 4)]
    assert [row["run"] for row in document["runs"]] == ["grid-1", "grid-2", "grid-3", "grid-4"]
    assert [row["loss"] for row in document["runs"]] == [2.0, 1.0, 2.0, 1.0]
    assert document["best"] == "grid-2" and [row["is_best"] for row in document["runs"]].count(True) == 1
    for row, (rate, steps) in zip(document["runs"], points, strict=True):
        training = project.json(row["run"], "resolved.json")["training"]
        assert (training["learning_rate"], training["max_steps"], training["num_epochs"]) == (rate, steps, None)
        assert Path(row["model_dir"]).is_dir() and Path(row["record"]).is_file()
    assert [row["run"] for row in project.launcher("list", "--json").document] == list(rows_of(document))


def test_a_point_is_what_set_would_have_made_it(project: Project) -> None:
    grid = ("training.max_steps=5", "dataset.mix.0.rows=7", 'cluster.environment.A="a,b",c')
    project.launcher("sweep", "count.toml", *(part for one in grid for part in ("--grid", one)), "--name", "s")
    sets = ("training.max_steps=5", "dataset.mix.0.rows=7", "cluster.environment.A=c")
    project.launcher("launch", "count.toml", *(part for one in sets for part in ("--set", one)), "--name", "alone")
    assert project.json("s-2", "resolved.json") == project.json("alone", "resolved.json")
    assert project.json("s-1", "job.json")["variables"]["A"] == "a,b"
    mine, other = (project.json(run, "job.json") for run in ("s-2", "alone"))
    assert {**mine, "run": "", "run_dir": "", "command": ""} == {**other, "run": "", "run_dir": "", "command": ""}


def test_people_get_lines_and_a_table_with_the_best_marked(project: Project) -> None:
    answer = project.launcher("sweep", "count.toml", *TWO_BY_TWO)
    lines = answer.out.splitlines()
    assert lines[0].split() == ["run", "learning_rate", "max_steps", "state", "step", "loss", "eval", "loss", "model"]
    assert [line[0] for line in lines] == [" ", " ", "*", " ", " "] and "1.0000" in lines[2]
    assert "count-sweep-3 (training.learning_rate=0.002, training.max_steps=2): succeeded" in answer.err
    again = project.launcher("sweep", "count.toml", *TWO_BY_TWO)
    assert "count-sweep2-1" in again.out


def test_what_points_have_in_common_is_asked_for_once(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counting(name: str) -> Any:
        answer = getattr(PluginHost, f"provide_{name}")

        def ask(host: PluginHost, request: Any, *place: str) -> Any:
            asked.append(f"{'plan' if request.plan_only else 'make'} {name}")
            return answer(host, request, *place)

        return ask

    for name in ("dataset", "environment"):
        monkeypatch.setattr(PluginHost, f"provide_{name}", counting(name))
    (project.root / "more.jsonl").write_text("{}\n{}\n")
    project.git("add", "--all")
    project.git("commit", "--quiet", "-m", "more")
    grid = (*TWO_BY_TWO, "--grid", "dataset.mix.0.source=rows.jsonl,more.jsonl")
    project.launcher("sweep", "count.toml", *grid)
    assert sorted(one for one in asked if one.startswith("make")) == ["make dataset"] * 2 + ["make environment"]
    assert len(asked) - 3 <= 5  # the first point's two, and those of all points' three


def test_the_first_failure_in_grid_order_decides_the_exit_code(project: Project) -> None:
    grid = ("--grid", "training.options.exit_code=0,42,7", "--set", "training.options.stop_at_step=2")
    answer = project.launcher("sweep", "count.toml", *grid, "--name", "s", "--json", expect=42)
    states = {run: (row["state"], row["exit_code"]) for run, row in rows_of(answer.last_document).items()}
    assert states["s-2"] == ("FAILED", 42) and states["s-3"] == ("FAILED", 7)
    assert answer.last_document["state"] == "FAILED" and answer.last_document["exit_code"] == 42
    assert "the same `sweep` with --name s" in answer.err


def test_a_sweep_goes_on_with_the_points_that_have_not_succeeded(project: Project) -> None:
    grid = ("--grid", "training.options.mode=good,killed", "--set", "training.options.stop_at_step=2",
            "--set", "training.options.exit_code=3", "--grid", "seed=1,2")  # fmt: skip
    arguments = ("sweep", "count.toml", *grid, "--name", "s", "--json")
    first = rows_of(project.launcher(*arguments, expect=3).last_document)
    assert {row["state"] for row in first.values()} == {"FAILED"}
    second = project.launcher(*arguments).last_document
    assert {row["state"] for row in second["runs"]} == {"SUCCEEDED"}
    assert len(list(project.run("s-1").glob("yard/*"))) == 2
    assert "start 1 " in project.launcher("logs", "s-4").out
    third = project.launcher(*arguments)
    assert "4 points, 0 to run" in third.err and len(list(project.run("s-1").glob("yard/*"))) == 2


def test_a_killed_launcher_leaves_jobs_that_the_same_sweep_finds_again(project: Project) -> None:
    arguments = ("sweep", "count.toml", *PACED, "--grid", "training.max_steps=25,26", "--name", "s")
    launcher = project.start(*arguments)
    project.wait_for_step(2, "s-2")
    launcher.kill()
    launcher.communicate()
    document = project.launcher(*arguments, "--json").last_document
    assert [row["step"] for row in document["runs"]] == [25, 26] and document["state"] == "SUCCEEDED"
    assert [len(list(project.run(run).glob("yard/*"))) for run in ("s-1", "s-2")] == [1, 1]


def test_ctrl_c_leaves_the_jobs_running_and_says_how_to_go_on(project: Project) -> None:
    grid = ("--grid", "training.max_steps=300,301,302", "--at-most", "2", "--name", "s")
    launcher = project.start("sweep", "count.toml", *PACED, *grid)
    project.wait_for_step(2, "s-2")
    launcher.send_signal(signal.SIGINT)
    _, err = launcher.communicate(timeout=50)
    assert launcher.returncode == 130 and "1 are not started: the same `sweep` with --name s goes on" in err, err
    document = project.launcher("status", "s", "--json").document
    assert [row["state"] for row in document["runs"]] == ["RUNNING", "RUNNING", "PENDING"]
    answer = project.launcher("stop", "s", "--json").document
    assert [row["state"] for row in answer["runs"]] == ["STOPPED"] * 3
    assert rows_of(answer)["s-3"]["message"] == "stopped before it was started"
    assert project.launcher("wait", "s", expect=75).out.count("stopped") == 3


def test_no_more_run_at_a_time_than_at_most(project: Project) -> None:
    grid = (*PACED, "--set", "training.max_steps=5", "--grid", "seed=1,2,3,4", "--at-most", "2", "--name", "s")
    document = project.launcher("sweep", "count.toml", *grid, "--json").last_document
    assert document["state"] == "SUCCEEDED" and largest_overlap(project, "s") <= 2


def test_a_detached_sweep_is_gone_on_with_by_a_waiter_that_is_found_by_its_name(project: Project) -> None:
    grid = (*PACED, "--set", "training.max_steps=5", "--grid", "seed=1,2,3", "--at-most", "1", "--name", "s")
    answer = project.launcher("sweep", "count.toml", *grid, "--detach")
    assert answer.out == "s\n" and "a waiter starts the rest" in answer.err
    assert project.launcher("wait", "s", "--json").last_document["state"] == "SUCCEEDED"
    assert largest_overlap(project, "s") == 1
    directory = project.home / "sweeps" / "s"
    wait_until(lambda: not (directory / "program").exists(), "the waiter's end")
    assert "all have ended" in (directory / "waiter.log").read_text()
    assert not (directory / "waiter.json").exists()


def test_a_sweep_without_a_limit_is_detached_without_a_waiter(project: Project) -> None:
    grid = (*HELD, "--grid", "seed=1,2", "--name", "s")
    document = project.launcher("sweep", "count.toml", *grid, "--detach", "--json").document
    assert [row["state"] for row in document["runs"]] == ["RUNNING", "RUNNING"]
    assert not (project.home / "sweeps" / "s" / "waiter.log").exists()
    project.let_go()
    assert project.launcher("wait", "s").out.count("succeeded") == 2


@pytest.mark.parametrize(
    ("grid", "code", "words"),
    [
        ((), 64, "sweep: needs one --grid or more"),
        (("training.max_steps",), 64, "--grid training.max_steps: must be PATH=VALUE,VALUE..., got no `=`"),
        (("training.max_steps=1,,2",), 64, "a value is empty"),
        (("training.options={a=[1,2}",), 64, "a `]` is missing"),
        (("seed=1,2,1",), 64, "`1` is there twice"),
        (("seed=1", "seed=2"), 64, "the same field"),
        (("training.options.mode=a", "training.options={}"), 64, "one is a part of the other"),
        (("training.num_epochs=1", "training.max_steps=2"), 64, "exclude each other"),
        (("name=a,b",), 64, "`name` cannot be varied"),
        (("dataset.mix.3.rows=1,2",), 64, "--grid dataset.mix.3.rows=1: `dataset.mix` has 1 items"),
        (("seed=1,-2", "training.max_steps=0,1"), 78, "points 3, 4: seed: must be at least 0, got -2"),
        (("seed=1,-2", "training.max_steps=0,1"), 78, "points 1, 3: training.max_steps: must be at least 1, got 0"),
        (("seed=1,2", "training.learnin_rate=1"), 78, "\n  training.learnin_rate: unknown key"),
        (("training.options.mode=good,3",), 78, "point 2 (training.options.mode=3): training.options.mode"),
        (("training.variant=plain,plian",), 78, "point 2 (training.variant=plian): training.variant: unknown variant"),
        (("training.strategy=ddp,fsdp2",), 77, "point 2 (training.strategy=fsdp2): training.strategy: is `fsdp2`"),
        (("training.strategy=fsdp2,ddp",), 77, "point 1 (training.strategy=fsdp2): training.strategy: is `fsdp2`"),
        (("dataset.mix.0.source=rows.jsonl,none.jsonl",), 66, "point 2 (dataset.mix.0.source=none.jsonl): dataset."),
        (("model.name_or_path=model,./none",), 66, "point 2 (model.name_or_path=./none): model.name_or_path"),
    ],
)  # fmt: skip
def test_a_wrong_grid_is_told_by_its_points_before_anything_is_made(
    grid: tuple[str, ...], code: int, words: str, project: Project
) -> None:
    before = project.entries()
    answer = project.launcher("sweep", "count.toml", *(part for one in grid for part in ("--grid", one)), expect=code)
    assert words in answer.err, answer.err
    assert "Traceback" not in answer.err and answer.out == "" and project.entries() == before


def test_a_sweep_of_another_grid_by_the_same_name_is_refused(project: Project) -> None:
    project.launcher("sweep", "count.toml", "--grid", "seed=1,2", "--name", "s")
    answer = project.launcher("sweep", "count.toml", "--grid", "seed=1,3", "--name", "s", expect=64)
    assert "with another grid" in answer.err and "it was: --grid seed=1,2" in answer.err
    answer = project.launcher("sweep", "count.toml", "--grid", "seed=1,2", "--set", "training.max_steps=9",
                              "--name", "s", expect=64)  # fmt: skip
    assert "run s-1 is there, and its experiment is not the same now" in answer.err
    project.launcher("launch", "count.toml", "--name", "taken")
    answer = project.launcher("sweep", "count.toml", "--grid", "seed=1", "--name", "taken", expect=64)
    assert "a run has this name" in answer.err


def test_on_a_terminal_there_is_a_table_that_changes_in_place(project: Project) -> None:
    parent, child = pty.openpty()
    grid = (*PACED, "--grid", "training.max_steps=3,5", "--name", "s")
    launcher = project.start("sweep", "count.toml", *grid, stderr=child)
    os.close(child)
    seen = b""
    while True:
        try:
            piece = os.read(parent, 65536)
        except OSError:
            break
        if not piece:
            break
        seen += piece
    out, _ = launcher.communicate(timeout=50)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode(errors="replace"))
    assert launcher.returncode == 0 and out.splitlines()[0].split()[0] == "run"
    assert re.search(r"s-2\s+training.max_steps=5\s+running\s+step \d/5", text), text
    assert "2 succeeded" in text and seen.count(b"\x1b[?25h") >= 1


def test_a_thousand_points_are_planned_without_reading_or_asking_anything_again(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = PluginHost.discover()
    axes = parse_grid([f"training.learning_rate={','.join(f'{number}e-6' for number in range(1, 101))}",
                       f"training.options.exit_code={','.join(map(str, range(10)))}"])  # fmt: skip
    arguments = ExperimentArguments(project.root / "count.toml")
    base = check_experiments(arguments, host)[0]

    def refuse(*_given: object, **_named: object) -> None:
        raise AssertionError("a point was read, asked for or hashed on its own")

    for module, name in ((sweep_module, "find_model"), (sweep_module, "load_with_options"), (subprocess, "Popen"),
                         (sweep_module, "inspect_checkout"), (PluginHost, "provide_dataset"),
                         (PluginHost, "provide_environment"), (PluginHost, "discover")):  # fmt: skip
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr("builtins.open", refuse)
    planned = plan_points(vary(base, axes), "s")
    assert [one.run for one in planned[::999]] == ["s-0001", "s-1000"]
    assert planned[-1].job.experiment is not None
    assert planned[-1].job.experiment.training.learning_rate == 100e-6
    assert planned[-1].job.experiment.training.options["exit_code"] == 9
    sent = {json.loads(one.submission.files[0].text)["log"] for one in planned}
    assert len(sent) == 1000


def test_a_point_is_planned_as_it_is_launched(project: Project) -> None:
    points = check_sweep(ExperimentArguments(Path("count.toml")), parse_grid(["seed=1,2"]), PluginHost.discover())
    planned = plan_points(points, "s")
    project.launcher("sweep", "count.toml", "--grid", "seed=1,2", "--name", "s")
    for one in planned:
        sent = {path.name: path.read_text() for path in (project.run(one.run) / "plan").iterdir()}
        assert {file.name: file.text for file in one.submission.files} == sent


def test_a_sweep_on_this_machine_is_stopped_and_gone_on_with_as_a_whole(project: Project) -> None:
    grid = ("--cluster", "local", *PACED, "--grid", "training.max_steps=4,60", "--name", "s")
    project.launcher("sweep", "count.toml", *grid, "--at-most", "1", "--detach")
    project.wait_for_step(2, "s-2")
    document = project.launcher("stop", "s", "--json").document
    assert [row["state"] for row in document["runs"]] == ["SUCCEEDED", "STOPPED"]
    wait_until(lambda: not (project.home / "sweeps" / "s" / "waiter.json").exists(), "the waiter's end")
    done = project.launcher("sweep", "count.toml", *grid, "--json").last_document
    assert [row["step"] for row in done["runs"]] == [4, 60] and done["exit_code"] == 0
    assert [len(list(project.run(run).glob("local/*"))) for run in ("s-1", "s-2")] == [1, 2]
