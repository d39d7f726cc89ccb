"""Variant `lora`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from conformance.tiny_jobs import (
    make_cache,
    make_conversations,
    make_job,
    make_model,
    metrics_of,
    model_bytes,
    save_weights,
)
from conformance.variant_suite import AdapterConformance, cut_short, logits_of
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.experiment import ModelSpec
from tunewright.contracts.jobs import ModelReference
from tunewright.trainer.api import ModelContext
from tunewright.trainer.export import export_model
from tunewright.trainer.job import open_job
from tunewright.trainer.training import run_training
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


def test_dora_with_rslora_trains_goes_on_exactly_loads_and_merges(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    save_weights(model)
    cache = make_cache(tmp_path / "cache", make_conversations(10))
    options = {"rank": 4, "alpha": 8, "use_dora": True, "use_rslora": True}
    whole = make_job(
        tmp_path, model, cache, weights="pretrained", variant="lora", options=options, num_epochs=3,
        checkpoint={"every_steps": 6},
    )  # fmt: skip
    run_training(open_job(whole))
    losses = [line["loss"] for line in metrics_of(whole)]
    assert losses[-1] < losses[0]
    trained = load_file(whole.parent / "model" / "adapter_model.safetensors")
    magnitudes = {name: one for name, one in trained.items() if "lora_magnitude_vector" in name}
    assert len(magnitudes) == 14

    resumed = cut_short(whole, tmp_path / "runs" / "resumed", keep="step-000006")
    run_training(open_job(resumed))
    assert model_bytes(resumed) == model_bytes(whole)

    adapted = AutoPeftModelForCausalLM.from_pretrained(whole.parent / "model")
    layer = adapted.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
    assert (layer.use_dora["default"], layer.scaling["default"]) == (True, 4.0)
    base = AutoModelForCausalLM.from_pretrained(model)
    column_norms = base.get_parameter("model.layers.0.self_attn.q_proj.weight").norm(dim=1)
    (magnitude,) = [one for name, one in magnitudes.items() if "layers.0.self_attn.q_proj" in name]
    assert not torch.allclose(magnitude, column_norms, rtol=1e-4), "magnitudes start as the norms, and are trained"
    export_model(whole.parent, tmp_path / "merged", merge=True)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits_of(merged), logits_of(adapted), atol=1e-4)
    assert not torch.allclose(logits_of(merged), logits_of(base), atol=1e-2)
