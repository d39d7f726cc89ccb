"""`job` and its tables: what an experiment that trains nothing may say, and what its stages go on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunewright.contracts.checkpoints import continuation_digest
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.experiment import ExperimentSpec
from tunewright.contracts.experiment_file import load_stages, parse_experiment, resolve_model
from tunewright.contracts.provenance import compose_record
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobState, JobStatus


def experiment(**tables: Any) -> ExperimentSpec:
    document = {"name": "e", "model": {"name_or_path": "m"}, "dataset": {"mix": [{"source": "s"}]}, **tables}
    return parse_experiment(document, "e.toml")


def refused(**tables: Any) -> str:
    with pytest.raises(InvalidExperiment) as caught:
        experiment(**tables)
    return str(caught.value.message)


def test_an_experiment_trains_unless_it_says_otherwise() -> None:
    assert experiment().job == "train"
    assert experiment(job="evaluate").evaluate.metrics == ("loss", "exact_match")
    assert "'train', 'evaluate' or 'export'" in refused(job="evalute") and "did you mean" in refused(job="evalute")


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"evaluate": {"answer_pattern": "("}}, "`(` is no regular expression"),
        ({"evaluate": {"answer_after": "#", "answer_pattern": "x"}}, "exclude each other"),
        ({"evaluate": {"metrics": []}}, "nothing is measured"),
        ({"evaluate": {"top_p": 0.5}}, "`top_p` goes with a `temperature`"),
        ({"evaluate": {"harness_tasks": ["t"]}, "cluster": {"processes_per_node": 2}}, "one process, got 2"),
        ({"dataset": {"mix": [{"source": "s", "train_on": "all"}]}}, "dataset.mix[0].train_on"),
        ({"export": {"max_shard_size": "5 GB"}}, "export.max_shard_size"),
    ],
)
def test_what_an_evaluation_cannot_measure_is_refused_by_its_key(tables: dict[str, Any], words: str) -> None:
    assert words in refused(job="evaluate", **tables)


def test_other_jobs_do_not_judge_what_they_do_not_read() -> None:
    uneven = {"training": {"batch_size": 3}, "cluster": {"processes_per_node": 2}}
    assert "training.batch_size" in refused(**uneven)
    assert experiment(job="evaluate", **uneven).job == "evaluate"
    everything = {"mix": [{"source": "s", "train_on": "all"}]}
    assert experiment(dataset=everything).job == "train"
    assert experiment(job="evaluate", dataset=everything, evaluate={"metrics": ["loss"]}).job == "evaluate"
    random = {"name_or_path": "m", "weights": "random"}
    assert experiment(job="evaluate", model=random).model.weights == "random"
    assert "nothing to export" in refused(job="export", model=random)
    assert experiment(job="evaluate", evaluation={"mix": [{"source": "s"}]}).evaluation_dataset is None


def test_a_run_that_goes_on_must_have_the_settings_of_its_own_job_in_common() -> None:
    def digest(job: str, **tables: Any) -> str:
        return continuation_digest(experiment(job=job, **tables))

    lower, shorter = {"training": {"learning_rate": 1e-4}}, {"evaluate": {"max_new_tokens": 1}}
    assert digest("train") != digest("train", **lower) and digest("train") == digest("train", **shorter)
    assert digest("evaluate") == digest("evaluate", **lower) and digest("evaluate") != digest("evaluate", **shorter)
    assert digest("export") == digest("export", **lower, **shorter)
    assert digest("export") != digest("export", export={"dtype": "bfloat16"})
    assert len({digest(job) for job in ("train", "evaluate", "export")}) == 3


STAGES = """
name = "p"
[model]
name_or_path = "start"
[[dataset.mix]]
source = "s"
[[stages]]
name = "baseline"
job = "evaluate"
[[stages]]
name = "train"
[[stages]]
name = "check"
job = "evaluate"
[[stages]]
name = "merge"
job = "export"
[[stages]]
name = "measure"
job = "evaluate"
[stages.evaluate]
rows = 3
[[stages]]
name = "other"
job = "evaluate"
[stages.model]
name_or_path = "elsewhere"
[[stages]]
name = "again"
"""


def test_a_stage_goes_on_with_the_last_model_that_a_stage_has_left(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(STAGES)
    stages = load_stages(tmp_path / "p.toml")
    befores = {one.stage.name: (one.stage.before, one.spec.model.name_or_path) for one in stages if one.stage}
    assert befores == {
        "baseline": (None, "start"),
        "train": (None, "start"),
        "check": ("train", "run:p-train"),
        "merge": ("train", "run:p-train"),
        "measure": ("merge", "run:p-merge"),
        "other": (None, "elsewhere"),
        "again": ("merge", "run:p-merge"),
    }
    assert [one.spec.evaluate.rows for one in stages] == [None, None, None, None, 3, None, None]


def test_adapters_are_a_model_only_to_jobs_that_can_take_them(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "adapter_config.json").write_text("{}")
    model = experiment().model
    with pytest.raises(InvalidExperiment, match='`job = "export"`'):
        resolve_model(model, tmp_path, tmp_path)
    assert resolve_model(model, tmp_path, tmp_path, allow_adapters=True).name_or_path == str(tmp_path / "m")


def test_the_record_has_what_was_measured(tmp_path: Path) -> None:
    run, status = RunDir(tmp_path), JobStatus(state=JobState.SUCCEEDED)
    assert "evaluation" not in compose_record(run, status, "now").metrics
    run.evaluation.write_text('{"metrics": {"loss": 1.5}}')
    assert compose_record(run, status, "now").metrics["evaluation"] == {"loss": 1.5}
