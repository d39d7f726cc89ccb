"""Every strategy computes what one process computes, goes on from what any other left, and is the one asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401  (here once: each process that is forked off has it)
import pytest
import torch
from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM

from conformance.tiny_jobs import (
    make_cache,
    make_conversations,
    make_job,
    make_model,
    make_pairs,
    metrics_of,
    model_bytes,
    run_trainer,
    save_weights,
)
from conformance.variant_suite import cut_short, logits_of
from conformance.world import CaseFailed, World, open_world, train_here
from tunewright.contracts.files import write_json_atomically
from tunewright.trainer.job import read_job

pytestmark = pytest.mark.timeout(300)

ENGINES = {
    "ddp": {"model": "DistributedDataParallel", "processes": 2},
    "deepspeed_zero2": {"model": "DeepSpeedEngine", "zero_stage": 2, "weights": "float32", "processes": 2},
    "deepspeed_zero3": {"model": "DeepSpeedEngine", "zero_stage": 3, "weights": "float32", "processes": 2},
    "fsdp2": {"groups": 3, "parameters_in_one_piece": 0, "weights": "float32", "processes": 2},
}
"""What each must have made of a model with two layers."""

OPTIONS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"rank": 3}, "qlora": {"rank": 4}}
CASES = [(strategy, variant) for strategy in ENGINES for variant in ("full", "lora")]
CASES += [("ddp", "qlora"), ("deepspeed_zero2", "qlora")]
SHARDED = ["deepspeed_zero2", "deepspeed_zero3", "fsdp2"]

STEPS = 4
CLOSE = 1e-4


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world() as opened:
        yield opened


class Jobs:
    """Trainings of the same conversations: every step has all nine of them, however they are laid out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        conversations = make_conversations(9)
        self.apart = make_cache(root / "apart", conversations)
        # Five rows for two processes: one has a forward pass more than the other.
        self.packed = make_cache(root / "packed", conversations, packed=[[0, 1], [2, 3], [4, 5], [6, 7], [8]])
        self.pairs = make_cache(root / "pairs", make_pairs(7), sequences_per_example=2)
        # Odd sizes: what cannot be cut in halves must be padded. Tied: one tensor with two names.
        odd = make_model(root / "odd", intermediate_size=129, tie_word_embeddings=True)
        even = make_model(root / "even")
        for model in (odd, even):
            save_weights(model)
        self.models = {"full": odd, "lora": odd, "qlora": even, "dpo": odd, "reward_model": odd}
        self._alone: dict[str, Path] = {}
        self._number = 0

    def alone(self, variant: str, **changes: Any) -> Path:
        """The run of one process, one row a pass. The same for all tests that ask for the same."""
        key = f"{variant} {changes}"
        if key not in self._alone:
            self._alone[key] = self._make("alone", variant, **{"batch_size": 9, "micro_batch_size": 1, **changes})
            train_here(self._alone[key])
        return self._alone[key]

    def together(self, strategy: str, variant: str = "full", **changes: Any) -> Path:
        """The same for two processes, in packed rows."""
        return self._make(strategy, variant, **{
            "cache": self.packed, "strategy": strategy, "processes": 2, "packing": True, "batch_size": 6,
            "micro_batch_size": 1, **changes,
        })  # fmt: skip

    def _make(self, name: str, variant: str, **arguments: Any) -> Path:
        self._number += 1
        return make_job(self.root, self.models[variant], run=f"{name}-{variant}-{self._number}", variant=variant, **{
            "cache": self.apart, "weights": "pretrained", "options": OPTIONS.get(variant, {}), "num_epochs": STEPS,
            "checkpoint": {"keep_last": STEPS}, **arguments,
        })  # fmt: skip


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("strategies"))


def losses_of(job: Path) -> list[float]:
    return [line["loss"] for line in metrics_of(job) if "loss" in line]


def evaluations_of(job: Path) -> list[float]:
    return [line["evaluation_loss"] for line in metrics_of(job) if "evaluation_loss" in line]


def engine_of(job: Path) -> dict[str, Any]:
    engine: dict[str, Any] = json.loads((job.parent / "training.json").read_text())["engine"]
    return engine


def final_logits(job: Path, variant: str) -> torch.Tensor:
    loaders = {"full": AutoModelForCausalLM, "lora": AutoPeftModelForCausalLM, "qlora": AutoPeftModelForCausalLM}
    return logits_of(loaders[variant].from_pretrained(job.parent / "model"))


@pytest.mark.parametrize(("strategy", "variant"), CASES)
def test_two_processes_of_every_strategy_train_what_one_process_trains(
    world: World, jobs: Jobs, strategy: str, variant: str
) -> None:
    alone, together = jobs.alone(variant), world.train(jobs.together(strategy, variant))
    assert engine_of(together).items() >= {"strategy": strategy, **ENGINES[strategy]}.items()
    assert losses_of(together) == pytest.approx(losses_of(alone), rel=CLOSE)
    norms = [[line["grad_norm"] for line in metrics_of(job)] for job in (together, alone)]
    assert norms[0] == pytest.approx(norms[1], rel=CLOSE)
    assert torch.allclose(final_logits(together, variant), final_logits(alone, variant), atol=CLOSE)
    assert set(model_bytes(together)) == set(model_bytes(alone))


@pytest.mark.parametrize("strategy", SHARDED)
@pytest.mark.parametrize("variant", ["full", "lora"])
def test_a_run_that_goes_on_ends_with_the_same_bytes(world: World, jobs: Jobs, strategy: str, variant: str) -> None:
    whole = world.train(jobs.together(strategy, variant, dtype="bfloat16"))
    resumed = cut_short(whole, whole.parent.with_name(f"{whole.parent.name}-resumed"), keep="step-000002")
    world.train(resumed)
    assert losses_of(resumed) == losses_of(whole)
    assert model_bytes(resumed) == model_bytes(whole)
    # Lower precision, and not another computation.
    assert losses_of(whole) == pytest.approx(losses_of(jobs.alone(variant)), rel=0.05)
    assert losses_of(whole) != pytest.approx(losses_of(jobs.alone(variant)), rel=1e-6)


HANDED_OVER = [("deepspeed_zero3", "ddp"), ("ddp", "fsdp2"), ("fsdp2", "deepspeed_zero2"), ("ddp", "deepspeed_zero3")]


@pytest.mark.parametrize(("first", "then"), HANDED_OVER)
def test_a_run_goes_on_under_another_strategy(world: World, jobs: Jobs, first: str, then: str) -> None:
    whole = world.train(jobs.together(first))
    job = hand_over(whole, then, processes=1 if then == "ddp" else 2)
    train_here(job) if then == "ddp" else world.train(job)
    assert engine_of(job)["strategy"] == then
    assert losses_of(job)[:2] == losses_of(whole)[:2]
    assert losses_of(job) == pytest.approx(losses_of(jobs.alone("full")), rel=CLOSE)
    assert torch.allclose(final_logits(job, "full"), final_logits(whole, "full"), atol=CLOSE)


def hand_over(whole: Path, strategy: str, processes: int) -> Path:
    """`whole` as if it had been killed after its second step, to go on with `strategy`."""
    job = cut_short(whole, whole.parent.with_name(f"{whole.parent.name}-{strategy}"), keep="step-000002")
    document = read_job(job).to_document()
    document["experiment"]["training"]["strategy"] = strategy
    document["experiment"]["cluster"]["processes_per_node"] = processes
    document["resources"]["processes_per_node"] = processes
    write_json_atomically(job, document)
    return job


@pytest.mark.parametrize(
    ("strategy", "offload", "offloaded"),
    [
        ("deepspeed_zero2", "optimizer", ["optimizer"]),
        ("deepspeed_zero3", "optimizer", ["optimizer"]),
        ("deepspeed_zero3", "optimizer_and_parameters", ["optimizer", "parameters"]),
    ],
)
def test_offloading_changes_where_things_are_and_not_what_they_are(
    world: World, jobs: Jobs, strategy: str, offload: str, offloaded: list[str]
) -> None:
    job = world.train(jobs.together(strategy, offload=offload))
    assert engine_of(job)["offload"] == offloaded
    assert losses_of(job) == pytest.approx(losses_of(jobs.alone("full")), rel=CLOSE)


@pytest.mark.parametrize("strategy", SHARDED)
@pytest.mark.parametrize("variant", ["full", "lora"])
def test_activation_checkpointing_changes_no_number(world: World, jobs: Jobs, strategy: str, variant: str) -> None:
    job = world.train(jobs.together(strategy, variant, activation_checkpointing=True))
    assert losses_of(job) == pytest.approx(losses_of(jobs.alone(variant)), rel=CLOSE)


@pytest.mark.parametrize("strategy", SHARDED)
def test_evaluations_and_the_best_model_are_the_same_too(world: World, jobs: Jobs, strategy: str) -> None:
    # Three rows for two processes; the rate rises until the last step is not the best.
    evaluated: dict[str, Any] = {
        "tables": {"evaluation": {"rows": 3, "keep_best": True}},
        "batch_size": 6,
        "learning_rate": 0.1,
        "warmup_ratio": 1.0,
    }
    alone = jobs.alone("full", **evaluated)
    job = jobs.together(strategy, packing=False, cache=jobs.apart, **evaluated)
    world.train(job)
    assert len(evaluations_of(job)) == STEPS and min(evaluations_of(job)) < evaluations_of(job)[-1]
    assert evaluations_of(job) == pytest.approx(evaluations_of(alone), rel=CLOSE)
    assert torch.allclose(final_logits(job, "full"), final_logits(alone, "full"), atol=10 * CLOSE)


@pytest.mark.parametrize("strategy", SHARDED)
def test_a_norm_that_is_no_number_ends_the_run_in_words(world: World, jobs: Jobs, strategy: str) -> None:
    job = jobs.together(strategy, learning_rate=1e20, max_grad_norm=0)
    with pytest.raises(CaseFailed, match=r"TrainingDiverged: step \d: the (loss|norm of the gradients) is (nan|inf)"):
        world.train(job)
    assert not (job.parent / "model").exists()


@pytest.mark.parametrize("strategy", SHARDED)
def test_one_process_alone_and_gradients_that_are_not_clipped(jobs: Jobs, strategy: str) -> None:
    alone = jobs.alone("full", max_grad_norm=0, num_epochs=2)
    job = jobs.alone("full", max_grad_norm=0, num_epochs=2, strategy=strategy)
    assert engine_of(job)["processes"] == 1
    assert losses_of(job) == pytest.approx(losses_of(alone), rel=CLOSE)


def test_the_command_line_starts_the_strategy_that_was_asked_for(jobs: Jobs) -> None:
    job = jobs.together("deepspeed_zero3", num_epochs=1)
    finished = run_trainer("train", job)
    assert finished.returncode == 0, finished.stderr
    assert engine_of(job).items() >= {"strategy": "deepspeed_zero3", **ENGINES["deepspeed_zero3"]}.items()
    assert losses_of(job) == pytest.approx(losses_of(jobs.alone("full"))[:1], rel=CLOSE)
    assert "DeepSpeed" not in finished.stdout


class QuickstartJobs:
    """Trainings of two steps of the quickstart's model, and the one of a process alone."""

    def __init__(self, root: Path) -> None:
        self.root, self.model = root, root / "model"
        self.cache = make_cache(root / "cache", make_conversations(4))
        shutil.copytree(Path("examples/models/tiny"), self.model)
        self.alone = self.make("alone")
        train_here(self.alone)

    def make(self, run: str, **arguments: Any) -> Path:
        return make_job(
            self.root, self.model, self.cache, run=run, batch_size=4, max_steps=2, micro_batch_size=1,
            learning_rate=1e-3, **arguments,
        )  # fmt: skip


@pytest.fixture(scope="module")
def quickstart_jobs(tmp_path_factory: pytest.TempPathFactory) -> QuickstartJobs:
    return QuickstartJobs(tmp_path_factory.mktemp("quickstart"))


@pytest.mark.parametrize("strategy", list(ENGINES))
def test_the_quickstarts_model_trains_the_same_under_every_strategy(
    world: World, quickstart_jobs: QuickstartJobs, strategy: str
) -> None:
    together = world.train(quickstart_jobs.make(f"together-{strategy}", processes=2, strategy=strategy))
    assert engine_of(together)["strategy"] == strategy
    assert losses_of(together) == pytest.approx(losses_of(quickstart_jobs.alone), rel=CLOSE)
    assert torch.allclose(final_logits(together, "full"), final_logits(quickstart_jobs.alone, "full"), atol=CLOSE)
