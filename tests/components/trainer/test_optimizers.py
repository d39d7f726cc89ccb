"""Every optimizer of the experiment file: it learns, goes on exactly, and works on what it is meant for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model, metrics_of, model_bytes
from conformance.variant_suite import cut_short
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.experiment import TrainingSpec
from tunewright.trainer.job import open_job
from tunewright.trainer.muon import MuonWithAdamW
from tunewright.trainer.optimization import make_optimizer, make_scheduler, restore_state
from tunewright.trainer.training import run_training

OPTIMIZERS = ["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "muon"]


def spec(**training: Any) -> TrainingSpec:
    return TrainingSpec.model_validate({"learning_rate": 0.01, **training})


def tiny_model(tmp_path: Path, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(make_model(tmp_path / "model", **changes))
    model: torch.nn.Module = AutoModelForCausalLM.from_config(config)
    return model


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_learns_and_goes_on_from_a_checkpoint_to_the_same_bytes(tmp_path: Path, optimizer: str) -> None:
    model = make_model(tmp_path / "model", attention_dropout=0.1)
    cache = make_cache(tmp_path / "cache", make_conversations(10))
    whole = make_job(
        tmp_path, model, cache, num_epochs=4, optimizer=optimizer, weight_decay=0.1,
        checkpoint={"every_steps": 7, "keep_last": 9},
    )  # fmt: skip
    run_training(open_job(whole))
    losses = [line["loss"] for line in metrics_of(whole)]
    assert losses[-1] < 0.9 * losses[0]
    resumed = cut_short(whole, tmp_path / "runs" / "resumed", keep="step-000007")
    run_training(open_job(resumed))
    assert json.loads((resumed.parent / "training.json").read_text())["resumed_from_step"] == 7
    assert model_bytes(resumed) == model_bytes(whole)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_vectors_do_not_decay_whatever_the_optimizer(tmp_path: Path, optimizer: str) -> None:
    model = tiny_model(tmp_path)
    groups = make_optimizer(model, spec(optimizer=optimizer, weight_decay=0.3)).param_groups
    decay = {id(one): group["weight_decay"] for group in groups for one in group["params"]}
    assert len(decay) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert all(decay[id(one)] == (0.3 if one.ndim == 2 else 0.0) for one in model.parameters())


def test_muon_takes_the_hidden_matrices_and_leaves_embeddings_head_and_vectors_to_adamw(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    optimizer = make_optimizer(model, spec(optimizer="muon"))
    by_muon = {id(one) for group in optimizer.param_groups if "momentum" in group for one in group["params"]}
    names = {name for name, one in model.named_parameters() if id(one) in by_muon}
    expected = {name for name, _ in model.named_parameters() if "_proj" in name}
    assert names == expected
    assert len(expected) == 14


def test_muon_leaves_a_head_that_is_tied_to_the_embeddings_to_adamw(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, tie_word_embeddings=True)
    optimizer = make_optimizer(model, spec(optimizer="muon"))
    by_adamw = {id(one) for group in optimizer.param_groups if "betas" in group for one in group["params"]}
    assert id(model.get_parameter("model.embed_tokens.weight")) in by_adamw


def test_an_update_of_muon_is_as_large_as_adamws(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    before = {name: one.detach().clone() for name, one in model.named_parameters()}
    optimizer = make_optimizer(model, spec(optimizer="muon"))
    torch.manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        root_mean_square = float((parameter.detach() - before[name]).pow(2).mean().sqrt())
        wanted = 0.002 if "_proj" in name else 0.01  # 0.2 of the learning rate, as AdamW's updates are in the long run
        assert root_mean_square == pytest.approx(wanted, rel=0.25), name


def test_muon_with_adamw_is_one_optimizer_to_a_schedule_and_to_load_state_dict(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    training = spec(optimizer="muon", learning_rate=1.0)
    optimizer = make_optimizer(model, training)
    scheduler = make_scheduler(optimizer, training, 4)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    scheduler.step()
    assert {group["lr"] for group in optimizer.param_groups} == {0.75}
    assert set(optimizer.state) == set(model.parameters())

    optimizer.load_state_dict(optimizer.state_dict())
    assert isinstance(optimizer, MuonWithAdamW)
    before = [one.detach().clone() for one in model.parameters()]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    optimizer.step()
    assert all(torch.equal(one, same) for one, same in zip(model.parameters(), before, strict=True)), (
        "the parts go on with the groups that a schedule writes to"
    )


def test_muon_without_matrices_is_refused_in_words() -> None:
    with pytest.raises(InvalidExperiment, match="nothing that is trained") as caught:
        make_optimizer(torch.nn.LayerNorm(4), spec(optimizer="muon"))
    assert caught.value.problems[0].path == "training.optimizer"


def test_eight_bits_hold_the_moments_of_matrices_but_not_those_of_embeddings(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    optimizer = make_optimizer(model, spec(optimizer="adamw_8bit"))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    dtypes = {name: optimizer.state[one]["state1"].dtype for name, one in model.named_parameters()}
    assert dtypes["model.layers.0.mlp.up_proj.weight"] == torch.uint8
    assert dtypes["lm_head.weight"] == torch.uint8
    assert dtypes["model.embed_tokens.weight"] == torch.float32
    assert dtypes["model.norm.weight"] == torch.float32


def test_a_restored_paged_state_lies_where_the_optimizer_made_it() -> None:
    parameter = torch.nn.Parameter(torch.ones(64, 128))
    optimizer = make_optimizer(torch.nn.ParameterList([parameter]), spec(optimizer="paged_adamw_8bit"))
    made: list[torch.Tensor] = []
    original = optimizer.get_state_buffer  # type: ignore[attr-defined]  # of bitsandbytes, which is not typed

    def get_state_buffer(*arguments: Any, **keywords: Any) -> torch.Tensor:
        made.append(original(*arguments, **keywords))
        return made[-1]

    optimizer.get_state_buffer = get_state_buffer  # type: ignore[attr-defined]  # the same
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    kept = {
        name: value.clone() if isinstance(value, torch.Tensor) else value
        for name, value in optimizer.state[parameter].items()
    }
    optimizer.state[parameter] = {}
    restore_state(optimizer, parameter, kept)
    restored = optimizer.state[parameter]
    assert restored["step"] == 1
    assert restored["state1"] is made[2]
    assert all(torch.equal(restored[name], value) for name, value in kept.items() if isinstance(value, torch.Tensor))
