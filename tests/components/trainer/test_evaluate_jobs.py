"""Evaluate jobs: loss and exact match of saved models, whatever the processes, gone on with after a kill."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.quick_trainers import StartTrainer, quick_trainers
from conformance.tiny_jobs import (
    Conversation,
    make_cache,
    make_conversations,
    make_job,
    make_model,
    make_pairs,
    metrics_of,
    save_weights,
)
from tunewright.contracts.errors import InvalidExperiment, TrainingDiverged
from tunewright.contracts.rundir import RunDir
from tunewright.trainer.node import run_node
from tunewright.trainer.scoring.rows import RowStore

pytestmark = pytest.mark.timeout(180)

QUESTIONS = [Conversation((10 + row, 20 + row, 40 + row, 50 + row, 1), ((2, 5),)) for row in range(8)]
"""Two tokens are asked, two are the answer, and a last one ends it."""


@pytest.fixture
def start() -> Iterator[StartTrainer]:
    with quick_trainers() as start:
        yield start


def evaluate(root: Path, model: Path, run: str, evaluate: dict[str, Any] | None = None, **arguments: Any) -> Path:
    """An evaluate job of `model` on the only cache below `root`."""
    arguments = {"weights": "pretrained", **arguments}
    tables = {"job": "evaluate", "evaluate": {"max_new_tokens": 6, "batch_size": 3, **(evaluate or {})}}
    return make_job(root, model, next((root / "cache").iterdir()), run=run, tables=tables, **arguments)


def results_of(job: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((job.parent / "evaluation.json").read_text())
    return document


def rows_of(job: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.parent / "evaluation_rows.jsonl").read_text().splitlines()]


@torch.no_grad()
def row_losses(model: Any, conversations: list[Conversation]) -> list[tuple[float, int]]:
    """The loss of each row as transformers computes it from labels, and the tokens it is a mean of."""
    losses = []
    for one in conversations:
        trained = {place for start, end in one.spans for place in range(max(start, 1), end)}
        labels = torch.tensor([[token if place in trained else -100 for place, token in enumerate(one.ids)]])
        losses.append((float(model(input_ids=torch.tensor([one.ids]), labels=labels).loss), len(trained)))
    return losses


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that has learned QUESTIONS by heart (`run`), adapters on it (`adapted`), and the cache."""
    root = tmp_path_factory.mktemp("trained")
    make_cache(root / "cache", QUESTIONS)
    cache = next((root / "cache").iterdir())
    assert run_node(make_job(root, make_model(root / "model"), cache, max_steps=60, batch_size=8)) == 0
    adapters: dict[str, Any] = {"variant": "lora", "options": {"rank": 4, "target_modules": "all-linear"}}
    learned = make_job(root, root / "runs" / "run" / "model", cache, run="adapted", weights="pretrained", max_steps=3,
                       learning_rate=0.05, batch_size=8, **adapters)  # fmt: skip
    assert run_node(learned) == 0
    return root


def test_the_loss_is_the_one_that_transformers_gives(tmp_path: Path, trained: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    conversations = make_conversations(11)
    make_cache(tmp_path / "cache", conversations)
    models = {"run": AutoModelForCausalLM, "adapted": AutoPeftModelForCausalLM}
    for name, model_class in models.items():
        directory = trained / "runs" / name / "model"
        job = evaluate(tmp_path, directory, name, {"metrics": ["loss"]}, packing=False)
        assert run_node(job) == 0
        losses = row_losses(model_class.from_pretrained(directory).eval(), conversations)
        assert [row["loss"] for row in rows_of(job)] == pytest.approx([loss for loss, _ in losses], rel=1e-5)
        mean = sum(loss * count for loss, count in losses) / sum(count for _, count in losses)
        assert results_of(job)["metrics"]["loss"] == pytest.approx(mean, rel=1e-5)
        assert list(results_of(job)["metrics"]) == ["loss", "perplexity"]


def test_answers_learned_by_heart_match_exactly_and_those_of_random_weights_do_not(trained: Path) -> None:
    learned = evaluate(trained, trained / "runs" / "run" / "model", "learned")
    random = evaluate(trained, trained / "model", "random", weights="random")
    for job, share in ((learned, 1.0), (random, 0.0)):
        assert run_node(job) == 0
        assert results_of(job)["metrics"]["exact_match"] == share
    counts = results_of(learned)["counts"]
    assert (counts["rows"], counts["exact_matches"], counts["generated_tokens"]) == (8, 8, 16)
    assert rows_of(learned)[2]["generated"] == rows_of(learned)[2]["reference"] == "w42 w52"
    assert [row["row"] for row in rows_of(learned)] == list(range(8))


def test_the_run_has_a_record_with_the_metrics_and_lines_of_them_but_no_model(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = evaluate(trained, trained / "runs" / "run" / "model", "recorded", {"rows": 5})
    assert run_node(job) == 0
    record = json.loads((job.parent / "provenance.json").read_text())
    assert record["outcome"]["state"] == "SUCCEEDED"
    assert record["metrics"]["evaluation"] == results_of(job)["metrics"]
    assert record["model_files"] == [] and "torch" in record["environment"]["packages"]
    *progress, last = metrics_of(job)
    assert (progress[-1]["step"], progress[-1]["max_steps"]) == (5, 5)
    assert last["evaluation_loss"] == results_of(job)["metrics"]["loss"] and last["evaluation_exact_match"] == 1.0
    assert "exact match: 5 of 5 rows, 1.0000" in capsys.readouterr().out
    assert not (job.parent / "model").exists() and not RowStore(RunDir(job.parent)).directory.exists()


def test_only_the_part_of_the_answer_that_is_asked_for_is_compared(trained: Path) -> None:
    job = evaluate(trained, trained / "runs" / "run" / "model", "part", {"answer_pattern": r"w5(\d)"})
    assert run_node(job) == 0
    assert [row["answer"] for row in rows_of(job)] == [str(row) for row in range(8)]
    short = evaluate(trained, trained / "runs" / "run" / "model", "short", {"answer_after": "w5", "max_new_tokens": 1})
    assert run_node(short) == 0
    assert results_of(short)["metrics"]["exact_match"] == 0.0
    assert results_of(short)["counts"]["without_answer"] == 8


def test_answers_do_not_depend_on_the_rows_beside_them_and_drawn_ones_are_drawn_again(trained: Path) -> None:
    answers = {}
    drawn = {"temperature": 2.0, "top_p": 0.9}
    ways: dict[str, dict[str, Any]] = {
        "one": {"batch_size": 1}, "all": {"batch_size": 8}, "drawn": drawn, "again": drawn,
    }  # fmt: skip
    for run, keys in ways.items():
        job = evaluate(trained, trained / "model", run, {"metrics": ["exact_match"], **keys}, weights="random")
        assert run_node(job) == 0
        answers[run] = [row["generated"] for row in rows_of(job)]
    assert answers["one"] == answers["all"]
    assert answers["drawn"] == answers["again"] != answers["all"]


def test_two_processes_find_what_one_finds_byte_for_byte(trained: Path, start: StartTrainer) -> None:
    model = trained / "runs" / "adapted" / "model"
    one, two = (evaluate(trained, model, f"of-{count}", processes=count) for count in (1, 2))
    for job in (one, two):
        trainer = start(job, "evaluate")
        assert trainer.wait() == 0, trainer.said
    for name in ("evaluation.json", "evaluation_rows.jsonl"):
        assert (one.parent / name).read_bytes() == (two.parent / name).read_bytes()


def test_rows_that_a_stopped_job_has_done_are_not_done_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], start: StartTrainer
) -> None:
    save_weights(make_model(tmp_path / "model"))
    make_cache(tmp_path / "cache", make_conversations(80))
    many = {"batch_size": 1, "max_new_tokens": 30}
    whole, stopped = (evaluate(tmp_path, tmp_path / "model", run, many) for run in ("whole", "stopped"))
    trainer, store = start(stopped, "evaluate"), RowStore(RunDir(stopped.parent))
    trainer.wait_until(lambda: any(store.directory.glob("process-*")))
    trainer.send(signal.SIGTERM)
    assert trainer.wait(30) == 75, trainer.said
    part = next(iter(store.directory.glob("process-*")))
    part.write_bytes(part.read_bytes() + b'[{"row": 9')  # as one that was killed in the middle of a line leaves it
    assert not (stopped.parent / "evaluation.json").exists()
    for job in (whole, stopped):
        assert run_node(job) == 0
    assert " rows are done already" in capsys.readouterr().out.split("rows: 80")[-1]
    assert (whole.parent / "evaluation_rows.jsonl").read_bytes() == (
        stopped.parent / "evaluation_rows.jsonl"
    ).read_bytes()
    assert results_of(whole)["metrics"] == results_of(stopped)["metrics"]


def test_rows_of_another_model_are_not_taken_for_done(trained: Path) -> None:
    job = evaluate(trained, trained / "runs" / "run" / "model", "other-rows")
    store = RowStore(RunDir(job.parent))
    store.begin("another identity")
    store.add(0, [])
    assert run_node(job) == 0
    assert results_of(job)["counts"]["rows"] == 8


def test_what_cannot_be_measured_ends_in_words(tmp_path: Path, trained: Path) -> None:
    model = trained / "runs" / "run" / "model"
    harness = evaluate(trained, model, "harness", {"harness_tasks": ["gsm8k"]})
    with pytest.raises(InvalidExperiment, match="gsm8k, and this environment has no lm-evaluation-harness"):
        run_node(harness)
    assert "lm-evaluation-harness" in json.loads((harness.parent / "training.json").read_text())["error"]
    make_cache(tmp_path / "cache", make_pairs(4), sequences_per_example=2)
    with pytest.raises(InvalidExperiment, match="holds pairs of answers"):
        run_node(evaluate(tmp_path, model, "pairs"))
    broken = make_model(tmp_path / "broken")
    save_weights(broken)
    from safetensors.torch import load_file, save_file

    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] *= float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(TrainingDiverged, match="a loss of nan"):
        run_node(evaluate(trained, broken, "nan", {"metrics": ["loss"]}))
