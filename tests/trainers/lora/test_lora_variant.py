"""Variant `lora`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM

from conformance.tiny_jobs import make_model, save_weights
from conformance.variant_suite import AdapterConformance, logits_of
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.experiment import ModelSpec
from tunewright.contracts.jobs import ModelReference
from tunewright.trainer.api import ModelContext
from tunewright.variants.lora.options import LoraOptions
from tunewright.variants.lora.variant import LoraVariant


class TestLora(AdapterConformance):
    variant_name: ClassVar[str] = "lora"
    options: ClassVar[dict[str, Any]] = {"rank": 4, "alpha": 8, "dropout": 0.1}


def build(tmp_path: Path, **options: Any) -> tuple[LoraVariant, Any, ModelContext]:
    directory = make_model(tmp_path / "base")
    save_weights(directory)
    spec, reference = ModelSpec(name_or_path=str(directory)), ModelReference(name_or_path=str(directory))
    context = ModelContext(spec, reference, 17, torch.device("cpu"), tmp_path / "run")
    variant = LoraVariant(LoraOptions.model_validate(options))
    return variant, variant.prepare_model(variant.load_model(context), context), context


def adapted_layers(model: torch.nn.Module) -> set[str]:
    return {name.split(".lora_")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_" in name}


def randomize(model: torch.nn.Module) -> None:
    """Adapters start as nothing: give them something to compare."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)


def test_all_linear_adapts_every_linear_layer_but_the_output(tmp_path: Path) -> None:
    _, model, _ = build(tmp_path)
    assert adapted_layers(model) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_named_targets_adapt_those_layers_alone(tmp_path: Path) -> None:
    _, model, _ = build(tmp_path, target_modules=["q_proj", "v_proj"])
    assert adapted_layers(model) == {"q_proj", "v_proj"}


def test_each_target_that_matches_nothing_is_an_error_that_names_it_and_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(InvalidExperiment) as caught:
        build(tmp_path, target_modules=["q_proj", "query", "proj"])
    assert [problem.path for problem in caught.value.problems] == ["training.options.target_modules"] * 2
    assert "`query`" in caught.value.problems[0].message
    assert "`proj`" in caught.value.problems[1].message
    assert "q_proj" in caught.value.problems[0].hint
    assert caught.value.exit_code == 78


def test_a_target_that_cannot_be_adapted_is_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidExperiment, match="target_modules"):
        build(tmp_path, target_modules=["input_layernorm"])


@pytest.mark.parametrize(
    "options", [{"rank": 0}, {"alpha": -1}, {"dropout": 1.0}, {"target_modules": []}, {"target_modules": "q_proj"}]
)
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        LoraOptions.model_validate(options)


def test_rank_alpha_and_rslora_decide_the_scale(tmp_path: Path) -> None:
    _, plain, _ = build(tmp_path / "a", rank=4, alpha=8)
    _, stable, _ = build(tmp_path / "b", rank=4, alpha=8, use_rslora=True)
    scale = [
        next(module.scaling["default"] for name, module in model.named_modules() if name.endswith("q_proj"))
        for model in (plain, stable)
    ]
    assert scale == [2.0, 4.0]


def test_the_adapter_names_its_base_and_lists_its_targets_in_order(tmp_path: Path) -> None:
    variant, model, context = build(tmp_path)
    (tmp_path / "adapter").mkdir()
    variant.save_final(model, tmp_path / "adapter", context, model.state_dict())
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == context.reference.name_or_path
    assert config["target_modules"] == sorted(config["target_modules"])


def test_the_merged_model_computes_what_the_adapter_on_its_base_does(tmp_path: Path) -> None:
    variant, model, context = build(tmp_path)
    randomize(model)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "merged").mkdir()
    variant.save_final(model, tmp_path / "adapter", context, model.state_dict())
    variant.merge(tmp_path / "adapter", tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(context.reference.name_or_path)
    assert torch.allclose(logits_of(merged), logits_of(model), atol=1e-4)
    assert not torch.allclose(logits_of(merged), logits_of(base), atol=1e-2)
