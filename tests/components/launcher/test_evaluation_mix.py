"""`[evaluation] mix`: a second dataset, prepared, planned, sent, recorded and compared as the first."""

from __future__ import annotations

import hashlib

import pytest

from components.launcher import stranger
from components.launcher.project import FAILING, Project
from tunewright.contracts.datasets import CachedDataset, DatasetRequest

MIX = ("--set", 'evaluation.mix=[{source="held-out.jsonl"}]')


@pytest.fixture
def evaluated(project: Project) -> Project:
    """The project, with rows to evaluate on."""
    (project.root / "held-out.jsonl").write_text("{}\n{}\n{}\n")
    project.git("add", "--all")
    project.git("commit", "--quiet", "-m", "held out")
    return project


def test_it_is_prepared_and_stands_in_plan_job_run_and_record(evaluated: Project) -> None:
    planned = evaluated.launcher("plan", "count.toml", *MIX, "--json").document["job"]
    answer = evaluated.launcher("launch", "count.toml", *MIX)
    digest = hashlib.sha256((evaluated.root / "held-out.jsonl").read_bytes()).hexdigest()
    assert planned["evaluation_dataset"]["digest"] == digest
    assert f"evaluation dataset: {digest[:12]}, 1 rows, 2 tokens\n" in answer.err
    kept = evaluated.json("count", "evaluation_dataset.json")
    assert kept == evaluated.json("count", "job.json")["evaluation_dataset"] and kept["digest"] == digest
    record = evaluated.json("count", "provenance.json")
    assert record["data"]["evaluation"] == kept
    assert {key: value for key, value in record["data"].items() if key != "evaluation"} == evaluated.json(
        "count", "dataset.json"
    )


def test_without_it_a_run_has_none_of_it(evaluated: Project) -> None:
    evaluated.launcher("launch", "count.toml", "--set", "evaluation.fraction=0.1")
    assert not (evaluated.run() / "evaluation_dataset.json").exists()
    assert evaluated.json("count", "job.json")["evaluation_dataset"] is None
    assert "evaluation" not in evaluated.json("count", "provenance.json")["data"]


def test_it_is_asked_for_as_the_dataset_is_but_in_order_and_unpacked(
    evaluated: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[DatasetRequest] = []
    provide = stranger.tunewright_provide_dataset

    def listen(dataset: DatasetRequest, cache_root: str) -> CachedDataset:
        asked.append(dataset)
        return provide(dataset, cache_root)

    listen.tunewright_impl = provide.tunewright_impl  # type: ignore[attr-defined]  # pluggy's own mark
    monkeypatch.setattr(stranger, "tunewright_provide_dataset", listen)
    own = ("--set", "dataset.packing=true", "--set", "dataset.shuffle=true", "--set", "dataset.max_length_tokens=77")
    evaluated.launcher("plan", "count.toml", *MIX, *own)
    (alone,) = (evaluated.launcher("plan", "count.toml", *own), asked.pop())[1:]
    dataset, evaluation = asked
    assert dataset == alone, "what is evaluated on must not decide the dataset's key"
    assert [one.source for one in evaluation.dataset.mix] == ["held-out.jsonl"]
    assert (evaluation.dataset.packing, evaluation.dataset.shuffle) == (False, False)
    assert evaluation.dataset.max_length_tokens == 77
    same = ("tokenizer", "tokenizer_revision", "chat_template", "seed", "project_root")
    assert all(getattr(evaluation, field) == getattr(dataset, field) for field in same)


def test_other_rows_to_evaluate_on_make_another_run(evaluated: Project) -> None:
    evaluated.launcher("launch", "count.toml", *MIX, *FAILING, expect=42)
    (evaluated.root / "held-out.jsonl").write_text("{}\n")
    evaluated.git("commit", "--quiet", "-am", "other rows")
    answer = evaluated.launcher("launch", "count.toml", *MIX, *FAILING, "--name", "count", expect=64)
    assert "its evaluation dataset is not the same now" in answer.err


@pytest.mark.parametrize("command", ["plan", "launch"])
def test_a_missing_source_is_named_by_its_own_field(command: str, evaluated: Project) -> None:
    answer = evaluated.launcher(command, "count.toml", "--set", 'evaluation.mix=[{source="none.jsonl"}]', expect=66)
    assert "evaluation.mix[0].source: `none.jsonl`" in answer.err and "dataset.mix" not in answer.err


def test_rows_that_cannot_be_used_leave_no_run(evaluated: Project) -> None:
    (evaluated.root / "held-out.jsonl").write_text("broken\n")
    evaluated.git("commit", "--quiet", "-am", "broken rows")
    answer = evaluated.launcher("launch", "count.toml", *MIX, expect=78)
    assert "held-out.jsonl:1: has no messages" in answer.err
    assert not (evaluated.home / "runs").exists()


def test_set_takes_the_fraction_away_where_it_gives_a_mix(evaluated: Project) -> None:
    answer = evaluated.launcher("plan", "count.toml", "--set", "evaluation.fraction=0.5", *MIX, "--json")
    evaluation = answer.document["job"]["experiment"]["evaluation"]
    assert evaluation["fraction"] is None and len(evaluation["mix"]) == 1
