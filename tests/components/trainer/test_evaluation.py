"""Evaluation while training: which rows, when, the loss, early stop, and the best model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from conformance.tiny_jobs import (
    Conversation,
    make_cache,
    make_conversations,
    make_job,
    make_model,
    metrics_of,
    model_bytes,
)
from conformance.variant_suite import cut_short
from conformance.world import open_world
from tunewright.contracts.datasets import CachedDataset
from tunewright.contracts.errors import CacheCorrupted, InvalidExperiment
from tunewright.contracts.experiment import EvaluationSpec
from tunewright.contracts.files import write_json_atomically
from tunewright.trainer.checkpoints.finding import whole_checkpoints
from tunewright.trainer.evaluation.rows import hold_out
from tunewright.trainer.evaluation.stopping import Standing, is_due, judge, stops_early
from tunewright.trainer.job import open_job, read_job
from tunewright.trainer.node import run_node
from tunewright.trainer.training import run_training


def spec(**keys: Any) -> EvaluationSpec:
    return EvaluationSpec.model_validate(keys)


def make(root: Path, run: str = "run", evaluation: dict[str, Any] | None = None, **arguments: Any) -> Path:
    """A job on 20 conversations, of which `evaluation` holds some out."""
    model = make_model(root / "model", attention_dropout=0.1)
    if not (root / "cache").is_dir():
        make_cache(root / "cache", make_conversations(20))
    job = make_job(root, model, next((root / "cache").iterdir()), run=run, **{"num_epochs": 2, **arguments})
    return add_evaluation(job, evaluation or {"rows": 4})


def add_evaluation(job: Path, evaluation: dict[str, Any], dataset: Path | None = None) -> Path:
    """`job` with `[evaluation]`, and with a dataset of its own where it has one."""
    document = read_job(job).to_document()
    document["experiment"]["evaluation"] = evaluation
    if dataset is not None:
        document["evaluation_dataset"] = CachedDataset(digest=dataset.name, path=str(dataset)).to_document()
    write_json_atomically(job, document)
    return job


def evaluations_of(job: Path) -> dict[int, float]:
    return {line["step"]: line["evaluation_loss"] for line in metrics_of(job) if "evaluation_loss" in line}


def losses_of(job: Path) -> list[float]:
    return [line["loss"] for line in metrics_of(job) if "loss" in line]


def names(job: Path) -> list[str]:
    return [path.name for path in whole_checkpoints(job.parent / "checkpoints")]


# --- which rows, when, and what follows: pure functions ---------------------------------------------------------------


def test_the_split_is_decided_by_the_seed_and_loses_no_row() -> None:
    split = hold_out(50, spec(rows=8), 17)
    assert sorted([*split.trained, *split.held_out]) == list(range(50))
    assert len(split.held_out) == 8
    assert split.held_out.tolist() == hold_out(50, spec(rows=8), 17).held_out.tolist()
    assert split.held_out.tolist() != hold_out(50, spec(rows=8), 18).held_out.tolist()
    assert split.held_out.tolist() != list(range(8)), "the rows are drawn, not the first ones"


def test_a_fraction_is_rounded_but_holds_out_one_row_at_least() -> None:
    assert [len(hold_out(50, spec(fraction=share), 1).held_out) for share in (0.001, 0.1, 0.9)] == [1, 5, 45]


@pytest.mark.parametrize("keys", [{"rows": 20}, {"rows": 21}, {"fraction": 0.99}])
def test_nothing_left_to_train_on_is_an_error_that_names_the_key(keys: dict[str, Any]) -> None:
    with pytest.raises(InvalidExperiment) as caught:
        hold_out(20, spec(**keys), 17)
    assert caught.value.problems[0].path == f"evaluation.{next(iter(keys))}"
    assert "20 rows" in caught.value.problems[0].message


def test_evaluations_come_every_so_many_steps_or_after_each_epoch_and_after_the_last() -> None:
    def steps(evaluation: EvaluationSpec | None) -> list[int]:
        return [step for step in range(1, 11) if is_due(evaluation, step, 3, 10)]

    assert steps(spec(rows=1, every_steps=4)) == [4, 8, 10]
    assert steps(spec(rows=1)) == [3, 6, 9, 10]
    assert steps(None) == []


def test_only_a_lower_loss_is_better_and_patience_counts_those_since() -> None:
    standing, found = Standing(), []
    for step, loss in enumerate([3.0, 2.0, 2.0, 2.5, 1.0, 1.5], start=1):
        standing = judge(standing, step, loss)
        found.append((standing.best_evaluation_step, standing.evaluations_since_best))
    assert found == [(1, 0), (2, 0), (2, 1), (2, 2), (5, 0), (5, 1)]
    patient = spec(rows=1, early_stop_patience=2)
    assert [stops_early(patient, count) for count in (0, 1, 2, 3)] == [False, False, True, True]
    assert not stops_early(spec(rows=1), 99)


# --- in a training ----------------------------------------------------------------------------------------------------


def test_held_out_rows_are_evaluated_and_never_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = make(tmp_path, evaluation={"rows": 4, "every_steps": 3})
    run_training(open_job(job))
    conversations = make_conversations(20)
    held_out = hold_out(20, spec(rows=4), 17).held_out.tolist()
    tokens = sum(len(conversations[row].ids) for row in held_out)
    lines = [line for line in metrics_of(job) if "evaluation_loss" in line]
    assert [line["step"] for line in lines] == [3, 6, 8]  # 16 rows are left, 4 a step, 2 epochs
    names = ["step", "evaluation_loss", "evaluation_tokens", "evaluation_seconds"]
    assert [list(line) for line in lines] == [names] * 3
    assert {line["evaluation_tokens"] for line in lines} == {tokens}
    trained = [line for line in metrics_of(job) if "loss" in line]
    assert trained[3]["tokens"] == sum(len(one.ids) for one in conversations) - tokens
    assert trained[-1]["epoch"] == 2.0
    summary = json.loads((job.parent / "training.json").read_text())
    best = min(lines, key=lambda line: line["evaluation_loss"])
    assert (summary["best_evaluation_step"], summary["best_evaluation_loss"]) == (best["step"], best["evaluation_loss"])
    record = json.loads((job.parent / "provenance.json").read_text())
    assert record["metrics"]["best_evaluation_loss"] == best["evaluation_loss"]
    assert f"step 3  evaluation loss {lines[0]['evaluation_loss']:.4f}  {tokens} tokens" in capsys.readouterr().out


@torch.no_grad()
def mean_loss(directory: Path, rows: list[int], conversations: list[Any]) -> float:
    """The mean cross-entropy of the trained tokens of `rows`, one conversation at a time, by transformers alone."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    losses = []
    for one in (conversations[row] for row in rows):
        logits = model(torch.tensor([one.ids])).logits[0].log_softmax(-1)
        losses += [-float(logits[place - 1, one.ids[place]]) for a, b in one.spans for place in range(max(a, 1), b)]
    return float(np.mean(losses))


def test_the_loss_is_the_mean_over_the_rows_trained_tokens_by_the_model_that_is_written(tmp_path: Path) -> None:
    job = make(tmp_path, evaluation={"rows": 5}, label_smoothing=0.2)
    run_training(open_job(job))
    held_out = hold_out(20, spec(rows=5), 17).held_out.tolist()
    expected = mean_loss(job.parent / "model", held_out, make_conversations(20))
    assert evaluations_of(job)[8] == pytest.approx(expected, rel=1e-5)


def test_an_evaluation_changes_nothing_of_the_training(tmp_path: Path) -> None:
    often = make(tmp_path, "often", {"rows": 4, "every_steps": 1})
    seldom = make(tmp_path, "seldom", {"rows": 4, "every_steps": 100})
    for job in (often, seldom):
        run_training(open_job(job))
    assert len(evaluations_of(often)) == 8
    assert evaluations_of(seldom)[8] == evaluations_of(often)[8]
    assert losses_of(often) == losses_of(seldom)
    assert model_bytes(often) == model_bytes(seldom)


def test_packed_rows_are_held_out_whole(tmp_path: Path) -> None:
    model, conversations = make_model(tmp_path / "model"), make_conversations(20)
    cache = make_cache(tmp_path / "cache", conversations, packed=[[row, row + 1] for row in range(0, 20, 2)])
    job = add_evaluation(make_job(tmp_path, model, cache, packing=True, max_steps=1), {"fraction": 0.2})
    run_training(open_job(job))
    rows = hold_out(10, spec(fraction=0.2), 17).held_out.tolist()
    assert len(rows) == 2
    expected = [member for row in rows for member in (2 * row, 2 * row + 1)]
    assert evaluations_of(job)[1] == pytest.approx(mean_loss(job.parent / "model", expected, conversations), rel=1e-5)


# --- a dataset of its own ---------------------------------------------------------------------------------------------

OWN = {"mix": [{"source": "other.jsonl"}], "every_steps": 2}


def test_a_dataset_of_its_own_is_evaluated_whole_and_all_of_the_other_is_trained_on(tmp_path: Path) -> None:
    model, others = make_model(tmp_path / "model"), make_conversations(7, seed=5)
    cache = make_cache(tmp_path / "cache", make_conversations(12), packed=[[row, row + 1] for row in range(0, 12, 2)])
    own = make_cache(tmp_path / "cache", others)
    job = add_evaluation(make_job(tmp_path, model, cache, packing=True, max_steps=3), OWN, own)
    assert run_node(job) == 0
    assert list(evaluations_of(job)) == [2, 3]
    assert evaluations_of(job)[3] == pytest.approx(mean_loss(job.parent / "model", list(range(7)), others), rel=1e-5)
    assert metrics_of(job)[1]["tokens"] == sum(len(one.ids) for one in make_conversations(12))


def test_a_dataset_of_its_own_that_differs_from_its_digest_or_is_missing_is_never_evaluated_on(tmp_path: Path) -> None:
    model, own = make_model(tmp_path / "model"), make_cache(tmp_path / "own", make_conversations(7, seed=5))
    cache = make_cache(tmp_path / "cache", make_conversations(12))
    job = add_evaluation(make_job(tmp_path, model, cache, max_steps=3), OWN, own)
    shard = own / "tokens-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CacheCorrupted, match=r"tokens-00000\.arrow"):
        run_node(job)
    document = read_job(job).to_document()
    del document["evaluation_dataset"]
    write_json_atomically(job, document)
    with pytest.raises(InvalidExperiment, match=r"evaluation\.mix"):
        open_job(job)


# --- early stop and the best model ------------------------------------------------------------------------------------

WORSENING = {"learning_rate": 0.05, "num_epochs": None, "max_steps": 30, "batch_size": 4}
"""Far too high a learning rate: the evaluation loss soon gets worse."""

PATIENT = {"rows": 4, "every_steps": 2, "early_stop_patience": 3, "keep_best": True}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that stopped early and wrote its best model."""
    root = tmp_path_factory.mktemp("stopped")
    job = make(root, "whole", PATIENT, checkpoint={"every_steps": 3, "keep_last": 99}, **WORSENING)
    run_training(open_job(job))
    return job


def test_a_training_that_gets_no_better_ends_early_and_has_succeeded(stopped: Path) -> None:
    evaluations = evaluations_of(stopped)
    best, last = min(evaluations, key=evaluations.__getitem__), max(evaluations)
    assert last == best + 6, "three evaluations, two steps apart, after the best"
    assert last < 30
    summary = json.loads((stopped.parent / "training.json").read_text())
    assert summary["steps"] == last == metrics_of(stopped)[-1]["step"]
    assert f"stopped after step {last} of 30: 3 evaluations in a row not better" in summary["ended_early"]
    assert summary["error"] is None
    record = json.loads((stopped.parent / "provenance.json").read_text())
    assert record["outcome"]["state"] == "SUCCEEDED"
    assert record["metrics"]["ended_early"] == summary["ended_early"]


def test_the_model_that_is_written_is_the_best_one(stopped: Path) -> None:
    evaluations = evaluations_of(stopped)
    best = min(evaluations, key=evaluations.__getitem__)
    held_out = hold_out(20, spec(rows=4), 17).held_out.tolist()
    assert mean_loss(stopped.parent / "model", held_out, make_conversations(20)) == pytest.approx(
        evaluations[best], rel=1e-5
    )
    origin = json.loads((stopped.parent / "model" / "tunewright.json").read_text())
    assert (origin["steps"], origin["evaluation_loss"]) == (best, evaluations[best])
    assert origin["last_loss"] == losses_of(stopped)[best - 1]
    assert f"Evaluation loss | {evaluations[best]:.4f}" in (stopped.parent / "model" / "README.md").read_text()


def test_each_new_best_has_a_checkpoint_and_the_best_outlives_the_newest(tmp_path: Path, stopped: Path) -> None:
    evaluations, standing, bests = evaluations_of(stopped), Standing(), set()
    for step, loss in evaluations.items():
        standing = judge(standing, step, loss)
        bests.add(standing.best_evaluation_step)
    last = max(evaluations)
    expected = sorted({*bests, *range(3, last + 1, 3), last})
    assert names(stopped) == [f"step-{step:06}" for step in expected]

    job = make(tmp_path, "few", PATIENT, checkpoint={"every_steps": 1, "keep_last": 2}, **WORSENING)
    run_training(open_job(job))
    best = min(evaluations, key=evaluations.__getitem__)
    assert names(job) == [f"step-{step:06}" for step in (best, last - 1, last)]
    assert model_bytes(job) == model_bytes(stopped), "checkpoints change nothing"


def test_a_run_that_was_killed_anywhere_ends_with_the_same_model_and_the_same_metrics(
    tmp_path: Path, stopped: Path
) -> None:
    before_best, after_best = names(stopped)[0], names(stopped)[-2]
    for name in (before_best, f"step-{best_until(stopped, 99):06}", after_best, names(stopped)[-1]):
        step = int(name.removeprefix("step-"))
        kept = {name, f"step-{best_until(stopped, step):06}"}
        job = cut_short(stopped, tmp_path / "runs" / name, keep=name)
        for other in kept:
            source = stopped.parent / "checkpoints" / other
            shutil.copytree(source, job.parent / "checkpoints" / other, dirs_exist_ok=True)
        run_training(open_job(job))
        assert model_bytes(job) == model_bytes(stopped), name
        assert evaluations_of(job) == evaluations_of(stopped), name
        steps = [line["step"] for line in metrics_of(job) if "evaluation_loss" in line]
        assert len(steps) == len(set(steps)), "no step is evaluated twice"
        assert losses_of(job) == losses_of(stopped), name


def best_until(job: Path, step: int) -> int:
    """The best evaluated step up to `step`."""
    found = {at: loss for at, loss in evaluations_of(job).items() if at <= step}
    return min(found, key=found.__getitem__, default=step)


def test_a_run_that_goes_on_with_another_evaluation_compares_with_none_of_the_earlier_ones(tmp_path: Path) -> None:
    model, cache = make_model(tmp_path / "model"), make_cache(tmp_path / "cache", make_conversations(12))
    easy = make_cache(tmp_path / "own", make_conversations(3))
    hard = make_cache(tmp_path / "own", [Conversation(tuple(range(100, 128)), ((1, 28),))])  # words it never sees
    whole = make_job(tmp_path, model, cache, max_steps=6, checkpoint={"every_steps": 3, "keep_last": 9})
    run_training(open_job(add_evaluation(whole, {**OWN, "keep_best": True}, easy)))
    job = cut_short(whole, tmp_path / "runs" / "resumed", keep="step-000003")
    run_training(open_job(add_evaluation(job, {**OWN, "keep_best": True}, hard)))
    found = evaluations_of(job)
    summary = json.loads((job.parent / "training.json").read_text())
    assert found[4] > found[2], "the words are hard"
    assert summary["best_evaluation_step"] in (4, 6), "not step 2, which was evaluated on the easy ones"


def test_without_keep_best_the_last_model_is_written(tmp_path: Path, stopped: Path) -> None:
    job = make(tmp_path, "last", {**PATIENT, "keep_best": False}, **WORSENING)
    run_training(open_job(job))
    assert evaluations_of(job) == evaluations_of(stopped)
    held_out = hold_out(20, spec(rows=4), 17).held_out.tolist()
    last = max(evaluations_of(job))
    assert mean_loss(job.parent / "model", held_out, make_conversations(20)) == pytest.approx(
        evaluations_of(job)[last], rel=1e-5
    )
    assert json.loads((job.parent / "model" / "tunewright.json").read_text())["evaluation_loss"] is None


# --- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)  # it starts two processes, and each of them imports torch
def test_two_processes_find_what_one_finds_and_stop_where_it_stops_whatever_the_strategy(tmp_path: Path) -> None:
    # One process has two of the held-out rows, the other has one and, where strategies need it, a pass for nothing.
    evaluation = {"rows": 3, "every_steps": 2, "early_stop_patience": 2, "keep_best": True}
    model = make_model(tmp_path / "model")
    cache = make_cache(tmp_path / "cache", make_conversations(9))

    def job(run: str, processes: int, **training: Any) -> Path:
        made = make_job(
            tmp_path, model, cache, run=run, processes=processes, max_steps=24, learning_rate=0.02, **training
        )
        return add_evaluation(made, evaluation)

    single = job("single", 1)
    run_training(open_job(single))
    assert max(evaluations_of(single)) < 24
    with open_world() as world:
        for strategy in ("ddp", "fsdp2"):
            double = world.train(job(strategy, 2, strategy=strategy))
            assert_same_evaluations(double, single)


def assert_same_evaluations(one: Path, other: Path) -> None:
    """Equal evaluations, and the same best model, to what another order of adding leaves."""
    assert list(evaluations_of(one)) == list(evaluations_of(other))
    assert list(evaluations_of(one).values()) == pytest.approx(list(evaluations_of(other).values()), rel=1e-3)
    (weights,), (others,) = model_bytes(one).values(), model_bytes(other).values()
    for name, tensor in load(weights).items():
        assert tensor.sub(load(others)[name]).abs().max() < 1e-3, name
