"""Jobs that train nothing: what is sent, what is told of them, and what they may follow in a pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.launcher.project import Project

STAGES = """
[[stages]]
name = "train"

[[stages]]
name = "merge"
job = "export"

[[stages]]
name = "measure"
job = "evaluate"

[[stages]]
name = "go-on"
"""


@pytest.fixture
def stages(project: Project) -> Project:
    """The project, with `stages.toml` beside `count.toml`."""
    (project.root / "stages.toml").write_text((project.root / "count.toml").read_text() + STAGES)
    project.git("add", "--all")
    project.git("commit", "--quiet", "-m", "stages")
    return project


def test_an_evaluation_ends_with_its_metrics_in_words_and_in_the_last_document(project: Project) -> None:
    answer = project.launcher("launch", "count.toml", "--set", "job=evaluate", "--json")
    assert answer.last_document["evaluation"]["exact_match"] == 0.5
    assert answer.last_document["model_dir"] is None
    assert "  loss: 1.2500\n  exact_match: 0.5000\n  harness.task.acc: 0.7500" in answer.err
    assert project.json("count", "job.json")["command"][-2:] == ["evaluate", str(project.run("count") / "job.json")]
    assert project.json("count", "provenance.json")["metrics"]["evaluation"]["loss"] == 1.25
    assert "evaluation" not in project.launcher("launch", "count.toml", "--json").last_document


def test_a_model_is_trained_merged_and_measured_in_one_file(stages: Project) -> None:
    document = stages.launcher("launch", "stages.toml", "--json").last_document
    by_stage = {one["stage"]: one for one in document["stages"]}
    assert [one["state"] for one in document["stages"]] == ["SUCCEEDED"] * 4
    assert by_stage["measure"]["evaluation"]["loss"] == 1.25 and "evaluation" not in by_stage["merge"]
    models = {name: stages.json(f"count-{name}", "job.json")["model"] for name in ("merge", "measure", "go-on")}
    assert {name: model["run"] for name, model in models.items()} == {
        "merge": "count-train", "measure": "count-merge", "go-on": "count-merge",
    }  # fmt: skip
    assert Path(by_stage["merge"]["model_dir"]).is_dir() and by_stage["measure"]["model_dir"] is None


def test_an_evaluation_with_other_settings_is_another_experiment_and_what_it_does_not_read_is_not(
    stages: Project,
) -> None:
    stages.launcher("launch", "stages.toml")
    same = ("launch", "stages.toml", "--name", "count", "--set", "stages.2.training.learning_rate=1e-3")
    assert stages.launcher(*same).err.count("is not run again") == 4
    answer = stages.launcher("launch", "stages.toml", "--name", "count", "--set", "stages.2.evaluate.rows=1", expect=64)
    assert "run count-measure is there, and its experiment is not the same now" in answer.err


def test_what_an_evaluation_cannot_measure_is_told_before_anything_starts(stages: Project) -> None:
    answer = stages.launcher("launch", "stages.toml", "--set", "stages.2.dataset.mix=[{source='x', train_on='all'}]",
                             expect=78)  # fmt: skip
    assert "stages.2 (measure): dataset.mix[0].train_on" in answer.err
    assert not (stages.home / "runs").exists()
