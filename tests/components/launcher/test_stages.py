"""A file with stages: planned and checked as a whole, run in order, gone on with where it was cut short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.launcher.project import FAILING, SLOW, Project, of_stage, wait_until
from tunewright.contracts.adapters import AdapterOptions
from tunewright.contracts.spec import Spec
from tunewright.launcher.preflight import leaves_adapters

STAGES = """
[[stages]]
name = "first"

[[stages]]
name = "second"
[stages.dataset]
mix = [{source = "pairs.jsonl"}]
[stages.training]
max_steps = 2
"""
FAILING_SECOND = of_stage(1, FAILING)
"""The second stage ends with 42 after its first step, and succeeds when it goes on."""


@pytest.fixture
def stages(project: Project) -> Project:
    """The project, with `stages.toml` beside `count.toml`."""
    (project.root / "stages.toml").write_text((project.root / "count.toml").read_text() + STAGES)
    (project.root / "pairs.jsonl").write_text("{}\n{}\n")
    project.git("add", "--all")
    project.git("commit", "--quiet", "-m", "stages")
    return project


def test_each_stage_is_a_run_of_its_own_and_starts_from_the_model_of_the_one_before(stages: Project) -> None:
    document = stages.launcher("launch", "stages.toml", "--json").last_document
    assert (document["run"], document["state"]) == ("count-second", "SUCCEEDED")
    assert [(one["stage"], one["run"], one["state"]) for one in document["stages"]] == [
        ("first", "count-first", "SUCCEEDED"), ("second", "count-second", "SUCCEEDED"),
    ]  # fmt: skip
    for one in document["stages"]:
        assert Path(one["run_dir"]) == stages.run(one["run"])
        assert Path(one["model_dir"]).is_dir() and Path(one["record"]).is_file()
    model = stages.json("count-second", "job.json")["model"]
    assert model["name_or_path"] == str(stages.run("count-first") / "model") and model["run"] == "count-first"
    assert len(model["sha256"]) == 64
    assert stages.json("count-second", "provenance.json")["model"] == model
    assert stages.json("count-first", "job.json")["model"]["run"] is None


def test_a_stage_is_recorded_as_any_run_is(stages: Project) -> None:
    stages.launcher("launch", "stages.toml")
    resolved = stages.json("count-second", "resolved.json")
    assert resolved["name"] == "count-second" and "stages" not in resolved
    assert resolved["training"]["max_steps"] == 2
    assert [line["step"] for line in stages.lines("count-first", "metrics.jsonl")] == [1, 2, 3]
    assert [line["step"] for line in stages.lines("count-second", "metrics.jsonl")] == [1, 2]
    datasets = [stages.json(f"count-{name}", "dataset.json")["digest"] for name in ("first", "second")]
    assert datasets[0] != datasets[1]
    assert (stages.run("count-second") / "experiment.toml").read_text() == (stages.root / "stages.toml").read_text()
    assert stages.launcher("status", "count-second", "--json").document["state"] == "SUCCEEDED"


def test_a_line_of_json_says_which_stage_the_next_ones_are_of(stages: Project) -> None:
    lines = [json.loads(line) for line in stages.launcher("launch", "stages.toml", "--json").out.splitlines()]
    begun = [(line["stage"], line["run"]) for line in lines if line.get("event") == "stage"]
    assert begun == [("first", "count-first"), ("second", "count-second")]
    assert [line for line in lines if "event" not in line] == lines[-1:]


def test_the_first_stage_that_fails_ends_the_pipeline_with_its_exit_code(stages: Project) -> None:
    first = of_stage(0, FAILING)
    answer = stages.launcher("launch", "stages.toml", *first, "--json", expect=42)
    assert answer.last_document["run"] == "count-first"
    assert [one["stage"] for one in answer.last_document["stages"]] == ["first"]
    assert "not started: stage `second` (dependency: stage `first` has not succeeded); the same `launch`" in answer.err
    assert "from step-000001: the same `launch` with --name count" in answer.err
    assert not stages.run("count-second").exists()


def test_a_pipeline_goes_on_where_it_was_cut_short(stages: Project) -> None:
    answer = stages.launcher("launch", "stages.toml", *FAILING_SECOND, "--json", expect=42)
    assert [one["state"] for one in answer.last_document["stages"]] == ["SUCCEEDED", "FAILED"]
    arguments = ("launch", "stages.toml", *FAILING_SECOND, "--name", "count", "--json")
    answer = stages.launcher(*arguments)
    assert answer.last_document["state"] == "SUCCEEDED"
    assert "stage first: run count-first has succeeded before; it is not run again" in answer.err
    assert len(list(stages.run("count-first").glob("yard/*"))) == 1
    assert len(list(stages.run("count-second").glob("yard/*"))) == 2
    assert "start 1 " in stages.launcher("logs", "count-second").out
    done = stages.launcher(*arguments)
    assert done.err.count("is not run again") == 2 and done.last_document["state"] == "SUCCEEDED"
    assert len(done.last_document["stages"]) == 2


def test_a_stage_that_still_runs_is_followed_when_its_launcher_has_died(stages: Project) -> None:
    slow = ("--set", "stages.0.training.options.pause_seconds=0.2", "--set", "stages.0.training.max_steps=8")
    launcher = stages.start("launch", "stages.toml", *slow)
    stages.wait_for_step(1, "count-first")
    launcher.kill()
    launcher.communicate()
    document = stages.launcher("launch", "stages.toml", *slow, "--name", "count", "--json").last_document
    assert [one["state"] for one in document["stages"]] == ["SUCCEEDED", "SUCCEEDED"]
    assert len(list(stages.run("count-first").glob("yard/*"))) == 1


def test_a_launcher_that_is_interrupted_leaves_the_stage_running_and_starts_no_other(stages: Project) -> None:
    slow = of_stage(0, SLOW)
    launcher = stages.start("launch", "stages.toml", *slow)
    stages.wait_for_step(1, "count-first")
    launcher.send_signal(2)
    _, err = launcher.communicate(timeout=50)
    assert launcher.returncode == 130 and "not started: stage `second`" in err and "--name count" in err
    assert stages.launcher("status", "count-first", "--json").document["state"] == "RUNNING"
    assert not stages.run("count-second").exists()


def test_pipelines_are_numbered_as_a_whole_and_named_as_a_whole(stages: Project) -> None:
    stages.run("count-second").mkdir(parents=True)
    names = []
    for arguments in ((), ("--name", "mine")):
        document = stages.launcher("launch", "stages.toml", *arguments, "--json").last_document
        names += [one["run"] for one in document["stages"]]
    assert names == ["count-2-first", "count-2-second", "mine-first", "mine-second"]
    assert stages.json("mine-second", "job.json")["model"]["run"] == "mine-first"
    assert "too long" in stages.launcher("launch", "stages.toml", "--name", "n" * 60, expect=64).err


def test_another_experiment_under_the_same_name_is_refused_before_anything_starts(stages: Project) -> None:
    stages.launcher("launch", "stages.toml", *FAILING_SECOND, expect=42)
    before = stages.entries()
    answer = stages.launcher("launch", "stages.toml", "--name", "count", expect=64)
    assert "--name count: run count-second is there, and its experiment is not the same now" in answer.err
    assert stages.entries() - before <= {str(stages.home / "asked")}


def test_a_stage_that_was_trained_on_another_model_is_not_taken_for_done(stages: Project) -> None:
    stages.launcher("launch", "stages.toml")
    (stages.run("count-first") / "model" / "model.safetensors").write_text("other weights")
    answer = stages.launcher("launch", "stages.toml", "--name", "count", expect=64)
    assert "run count-second is there, and its model is not the same now" in answer.err


def test_an_earlier_pipeline_that_has_not_come_to_its_end_is_told_of(stages: Project) -> None:
    stages.launcher("launch", "stages.toml", *FAILING_SECOND, expect=42)
    answer = stages.launcher("launch", "stages.toml", *FAILING_SECOND, expect=42)
    assert (
        "note: count of the same experiment has not come to its end; the same `launch` with --name count" in answer.err
    )


def test_a_stage_that_starts_after_another_one_runs_though_the_one_before_it_failed(stages: Project) -> None:
    more = """
[[stages]]
name = "third"
after = ["first"]
[[stages]]
name = "fourth"
after = ["third", "second"]
"""
    (stages.root / "stages.toml").write_text((stages.root / "stages.toml").read_text() + more)
    stages.git("commit", "--quiet", "-am", "four")
    answer = stages.launcher("launch", "stages.toml", *FAILING_SECOND, "--json", expect=42)
    ends = [(one["stage"], one["state"]) for one in answer.last_document["stages"]]
    assert ends == [("first", "SUCCEEDED"), ("second", "FAILED"), ("third", "SUCCEEDED")]
    assert answer.last_document["run"] == "count-second"
    assert "not started: stage `fourth` (dependency: stage `second` has not succeeded)" in answer.err
    assert stages.json("count-third", "job.json")["model"]["run"] == "count-first"
    done = stages.launcher("launch", "stages.toml", *FAILING_SECOND, "--name", "count", "--json").last_document
    assert [one["state"] for one in done["stages"]] == ["SUCCEEDED"] * 4
    assert stages.json("count-fourth", "job.json")["model"]["run"] == "count-third"
    rows = stages.launcher("status", "count", "--json").document["runs"]
    assert [row["after"] for row in rows] == [[], ["count-first"], ["count-first"], ["count-third", "count-second"]]


def test_plan_shows_every_stage_before_there_is_a_model_to_go_on_with(stages: Project) -> None:
    before = stages.entries()
    document = stages.launcher("plan", "stages.toml", "--json").document
    assert document["pipeline"] == "count"
    first, second = document["stages"]
    assert (first["stage"], first["run"], second["run"]) == ("first", "count-first", "count-second")
    expected = {"name_or_path": str(stages.run("count-first") / "model"), "run": "count-first", "sha256": None}
    assert {key: second["job"]["model"][key] for key in expected} == expected
    assert second["job"]["experiment"]["model"]["name_or_path"] == "run:count-first"
    text = stages.launcher("plan", "stages.toml").out
    assert text.index("====> stage first: run count-first") < text.index("====> stage second: run count-second")
    assert stages.entries() == before


def test_a_launch_sends_what_plan_said_for_each_stage(stages: Project) -> None:
    planned = stages.launcher("plan", "stages.toml", "--json").document["stages"]
    stages.launcher("launch", "stages.toml")
    for stage in planned:
        sent = {path.name: path.read_text() for path in (stages.run(stage["run"]) / "plan").iterdir()}
        assert stage["files"] == sent
        assert stage["job"]["dataset"]["digest"] == stages.json(stage["run"], "dataset.json")["digest"]


def test_diff_compares_the_stage_that_the_run_is_of(stages: Project) -> None:
    stages.launcher("launch", "stages.toml")
    same = ("plan", "stages.toml", "--name", "count", "--diff")
    assert stages.launcher(*same, "count-second").out == ""
    out = stages.launcher(*same, "count-second", "--set", "stages.1.training.max_steps=7").out
    assert '-    "max_steps": 2,' in out and '+    "max_steps": 7,' in out
    assert stages.launcher(*same, "count-first", "--set", "stages.1.training.max_steps=7").out == ""
    stages.launcher("launch", "count.toml")
    answer = stages.launcher(*same, "count", expect=64)
    assert "--diff count: must be the run of a stage" in answer.err


@pytest.mark.parametrize(
    ("assignment", "code", "words"),
    [
        ("stages.1.training.learning_rate=-1", 78, "stages.1 (second): training.learning_rate: must be above 0"),
        ("stages.1.training.options.mode=3", 78, "stages.1 (second): training.options.mode"),
        ("stages.1.training.variant=plian", 78, "stages.1 (second): training.variant: unknown variant `plian`"),
        ("stages.1.cluster.options.gaet=3", 78, "stages.1 (second): cluster.options.gaet: unknown key"),
        ("stages.1.dataset.mix.0.source=paris.jsonl", 66, "stages.1 (second): dataset.mix[0].source: `paris.jsonl`"),
        ("stages.1.model.name_or_path=./nowhere", 66, "stages.1 (second): model.name_or_path: `./nowhere`"),
        ("stages.1.training.strategy=fsdp2", 77, "stages.1 (second): training.strategy: is `fsdp2`"),
        ("stages.1.cluster.nodes=2", 77, "stages.1 (second): cluster.nodes: is 2"),
        ('stages.1.evaluation={mix=[{source="none.jsonl"}]}', 66, "stages.1 (second): evaluation.mix[0].source: `none"),
        ("training.learning_rate=-1", 78, "\n  training.learning_rate: must be above 0"),
        ("cluster.nodes=0", 78, "\n  cluster.nodes: must be at least 1, got 0"),
        ("cluster.max_retries=1", 77, "\n  cluster.max_retries: is 1"),
        ("stages.2.training.max_steps=1", 64, "`stages` has 2 items"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["launch", "plan"])
def test_everything_is_checked_before_the_first_stage_starts(
    command: str, assignment: str, code: int, words: str, stages: Project
) -> None:
    before = stages.entries()
    answer = stages.launcher(command, "stages.toml", "--set", assignment, expect=code)
    assert words in answer.err, answer.err
    assert "Traceback" not in answer.err and answer.out == "" and stages.entries() == before


def test_faults_of_all_stages_are_told_at_once(stages: Project) -> None:
    wrong = ("stages.0.training.max_steps=0", "stages.1.training.options.exit_code=much", "cluster.options.gaet=1")
    answer = stages.launcher("plan", "stages.toml", *(part for one in wrong for part in ("--set", one)), expect=78)
    told = ("stages.0 (first): training.max_steps", "stages.1 (second): training.options.exit_code")
    assert all(words in answer.err for words in (*told, "\n  cluster.options.gaet")) and "3 problems" in answer.err


def test_what_all_stages_need_is_prepared_before_the_first_one_starts(stages: Project) -> None:
    (stages.root / "pairs.jsonl").write_text("broken\n")
    stages.git("commit", "--quiet", "-am", "broken pairs")
    answer = stages.launcher("launch", "stages.toml", expect=78)
    assert "stages.1 (second): " in answer.err and "pairs.jsonl:1: has no messages" in answer.err
    assert not (stages.home / "runs").exists()


def test_a_stage_cannot_start_from_adapters_and_the_stage_that_leaves_them_is_named(stages: Project) -> None:
    lora = ("--set", 'stages.0.training={variant="lora"}')
    answer = stages.launcher("plan", "stages.toml", *lora, expect=77)
    assert "stages.0 (first): training.variant: is `lora`, which leaves adapters" in answer.err
    assert "stage `second` cannot start" in answer.err and 'job = "export"' in answer.err
    own_model = ("--set", 'stages.1.model={name_or_path="model"}')
    assert len(stages.launcher("plan", "stages.toml", *lora, *own_model, "--json").document["stages"]) == 2
    last = ("--set", 'stages.1.training={variant="lora"}')
    assert stages.launcher("plan", "stages.toml", *last, "--json").document["stages"][1]["job"]["experiment"][
        "training"
    ]["options"]["rank"]


def test_adapters_are_known_by_their_options() -> None:
    class Nested(Spec):
        adapters: AdapterOptions | None = None
        """Some, or none."""

    class Own(AdapterOptions):
        """A variant's own."""

    assert leaves_adapters(Own()) and leaves_adapters(Nested(adapters=AdapterOptions()))
    assert not leaves_adapters(Nested())


def test_a_submission_that_was_not_confirmed_names_the_pipeline(stages: Project, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    arguments = ("launch", "stages.toml", "--set", f"cluster.options.gate={gate}", "--name", "mine")
    answer = stages.launcher(*arguments, expect=69)
    assert "run mine-first is kept" in answer.err and "--name mine goes on with it" in answer.err
    assert "--name mine goes on" in stages.launcher("status", "mine-first", "--json").document["message"]
    gate.unlink()
    assert "stage second" in stages.launcher(*arguments).err


def test_the_schema_knows_stages_and_asks_nothing_of_their_tables(stages: Project) -> None:
    document: dict[str, Any] = stages.launcher("schema").document
    stage = document["properties"]["stages"]["items"]
    assert stage["required"] == ["name"] and {"model", "dataset", "training", "cluster"} <= set(stage["properties"])
    assert "schema" not in stage["properties"]
    assert stage["properties"]["model"]["$ref"] == "#/$defs/stage-ModelSpec"
    overlay, whole = (document["$defs"][name] for name in ("stage-ModelSpec", "ModelSpec"))
    assert "required" not in overlay and whole["required"] == ["name_or_path"]
    assert overlay["properties"] == whole["properties"]
    assert document["anyOf"] == [{"required": ["model", "dataset"]}, {"required": ["stages"]}]


def test_a_pipeline_on_a_running_stage_is_listed_by_its_runs(stages: Project) -> None:
    slow = ("--set", "stages.1.training.options.pause_seconds=0.25", "--set", "stages.1.training.max_steps=400")
    launcher = stages.start("launch", "stages.toml", *slow)
    wait_until((stages.run("count-second") / "handle.json").exists, "the second stage")
    states = {row["run"]: row["state"] for row in stages.launcher("list", "--json").document}
    launcher.kill()
    launcher.communicate()
    assert states["count-first"] == "SUCCEEDED" and states["count-second"] in ("RUNNING", "STARTING")
