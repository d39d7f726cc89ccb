"""Optimizer and schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tunewright.contracts.experiment import TrainingSpec
from tunewright.trainer.optimization import make_optimizer, make_scheduler, warmup_steps


def spec(**training: Any) -> TrainingSpec:
    return TrainingSpec.model_validate({"learning_rate": 1.0, **training})


def rates(steps: int, **training: Any) -> list[float]:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = make_scheduler(optimizer, spec(**training), steps)
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_vectors_do_not_decay_and_matrices_do() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    optimizer = make_optimizer(model, spec(weight_decay=0.1, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-5))
    decay = {id(one): group["weight_decay"] for group in optimizer.param_groups for one in group["params"]}
    assert [decay[id(one)] for one in model.parameters()] == [0.1, 0.0, 0.0, 0.0]
    assert {(group["betas"], group["eps"]) for group in optimizer.param_groups} == {((0.8, 0.9), 1e-5)}


def test_frozen_parameters_are_left_out() -> None:
    model = torch.nn.Linear(3, 3)
    model.bias.requires_grad_(False)
    assert [len(group["params"]) for group in make_optimizer(model, spec()).param_groups] == [1]


def test_the_linear_schedule_rises_over_the_warm_up_and_falls_to_nothing() -> None:
    assert rates(10, lr_scheduler="linear", warmup_ratio=0.2) == pytest.approx(
        [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    )


def test_the_cosine_schedule_is_at_half_in_the_middle() -> None:
    assert rates(10, lr_scheduler="cosine")[5] == pytest.approx(0.5)


def test_a_constant_schedule_warms_up_where_that_is_asked_for() -> None:
    assert rates(4, lr_scheduler="constant") == [1, 1, 1, 1]
    assert rates(4, lr_scheduler="constant", warmup_ratio=0.5) == [0, 0.5, 1, 1]


def test_the_cosine_schedule_with_a_floor_falls_to_its_share_of_the_peak() -> None:
    found = rates(8, lr_scheduler="cosine_with_min_lr", warmup_ratio=0.25, min_learning_rate_ratio=0.2)
    assert found[:3] == pytest.approx([0, 0.5, 1])
    assert found[5] == pytest.approx(0.6), "half-way down from the peak to 0.2"
    assert min(found[2:]) > 0.2


def test_warmup_stable_decay_stays_at_its_peak_and_falls_over_the_share_at_the_end() -> None:
    found = rates(
        10, lr_scheduler="warmup_stable_decay", warmup_ratio=0.2, decay_ratio=0.4, min_learning_rate_ratio=0.1
    )
    assert found[:6] == pytest.approx([0.1, 0.55, 1, 1, 1, 1]), "transformers' warm-up rises from where the decay ends"
    assert found[6] == pytest.approx(1)
    assert found[8] == pytest.approx(0.55)
    assert 0.1 < found[9] < 0.3


def test_warm_up_and_decay_that_are_all_steps_are_not_more_than_all_when_they_are_rounded_up() -> None:
    found = rates(7, lr_scheduler="warmup_stable_decay", warmup_ratio=0.5, decay_ratio=0.5)
    assert found[4] == pytest.approx(1)
    assert found == pytest.approx([0, 0.25, 0.5, 0.75, 1, 0.75, 0.25])


@pytest.mark.parametrize(
    "name",
    [
        "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
        "cosine_with_min_lr", "warmup_stable_decay",
    ],
)  # fmt: skip
def test_every_schedule_of_the_experiment_file_starts(name: str) -> None:
    assert all(0 <= rate <= 1 for rate in rates(8, lr_scheduler=name, warmup_ratio=0.25))


def test_warm_up_is_rounded_up() -> None:
    assert warmup_steps(spec(warmup_ratio=0.03), 40) == 2
    assert warmup_steps(spec(warmup_ratio=0.0), 40) == 0
