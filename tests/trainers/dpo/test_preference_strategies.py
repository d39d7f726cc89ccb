"""Variants that train on pairs, under every strategy: two processes train what one does.

Both variants are here, since starting two processes takes longer than all cases together.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import deepspeed  # noqa: F401  (here once: each process that is forked off has it)
import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from conformance.tiny_jobs import (
    make_cache,
    make_job,
    make_model,
    make_pairs,
    metrics_of,
    model_bytes,
    save_weights,
)
from conformance.variant_suite import logits_of
from conformance.world import World, open_world, train_here
from tunewright.variants.dpo.reference_cache import DIRECTORY

pytestmark = pytest.mark.timeout(300)

STRATEGIES = ["ddp", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"]
LOADERS: dict[tuple[str, bool], Any] = {
    ("dpo", False): AutoModelForCausalLM,
    ("dpo", True): AutoPeftModelForCausalLM,
    ("reward_model", False): AutoModelForSequenceClassification,
    ("reward_model", True): AutoPeftModelForSequenceClassification,
}
CLOSE = 1e-4


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world() as opened:
        yield opened


class Jobs:
    """Trainings of the same seven pairs: every step has all of them, however they are laid out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.apart = make_cache(root / "apart", make_pairs(7), sequences_per_example=2)
        # Five rows for two processes: one has a forward pass more than the other.
        rows = [range(4), range(4, 8), range(8, 10), range(10, 12), range(12, 14)]
        self.packed = make_cache(root / "packed", make_pairs(7), rows, sequences_per_example=2)
        self.model = make_model(root / "model")
        save_weights(self.model)
        self._alone: dict[tuple[str, bool], Path] = {}

    def alone(self, variant: str, has_adapters: bool) -> Path:
        """The run of one process."""
        if (variant, has_adapters) not in self._alone:
            job = self._make("alone", self.apart, variant, has_adapters, batch_size=7, micro_batch_size=1)
            train_here(job)
            self._alone[variant, has_adapters] = job
        return self._alone[variant, has_adapters]

    def together(self, strategy: str, variant: str, has_adapters: bool) -> Path:
        """The same for two processes, in packed rows. No reference is there yet."""
        shutil.rmtree(self.packed.parent / DIRECTORY, ignore_errors=True)
        return self._make(
            strategy, self.packed, variant, has_adapters, strategy=strategy, processes=2, packing=True, batch_size=6,
            micro_batch_size=1,
        )  # fmt: skip

    def _make(self, name: str, cache: Path, variant: str, has_adapters: bool, **arguments: Any) -> Path:
        options = {"lora": {"rank": 3}} if has_adapters else {}
        run = f"{name}-{variant}-{'lora' if has_adapters else 'full'}"
        return make_job(
            self.root, self.model, cache, run=run, variant=variant, options=options, weights="pretrained",
            num_epochs=4, **arguments,
        )  # fmt: skip


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    return Jobs(tmp_path_factory.mktemp("preferences"))


def values_of(job: Path, name: str) -> list[float]:
    return [line[name] for line in metrics_of(job)]


def final_outputs(job: Path, variant: str, has_adapters: bool) -> torch.Tensor:
    arguments = {"num_labels": 1} if variant == "reward_model" and has_adapters else {}
    return logits_of(LOADERS[variant, has_adapters].from_pretrained(job.parent / "model", **arguments))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("variant", "has_adapters"), LOADERS)
def test_two_processes_of_every_strategy_train_what_one_process_trains(
    world: World, jobs: Jobs, strategy: str, variant: str, has_adapters: bool
) -> None:
    alone, together = (
        jobs.alone(variant, has_adapters),
        world.train(jobs.together(strategy, variant, has_adapters)),
    )
    for name in ("loss", "grad_norm", "margin"):
        assert values_of(together, name) == pytest.approx(values_of(alone, name), rel=CLOSE, abs=1e-5), name
    assert values_of(alone, "loss")[-1] < values_of(alone, "loss")[0]
    outputs, expected = (final_outputs(job, variant, has_adapters) for job in (together, alone))
    assert torch.allclose(outputs, expected, atol=CLOSE)
    assert set(model_bytes(together)) == set(model_bytes(alone))
    assert len(list((jobs.packed.parent).glob(f"{DIRECTORY}/*/manifest.json"))) == (variant == "dpo")
