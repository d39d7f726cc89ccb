"""Variant `qlora`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import AutoPeftModelForCausalLM, PeftModel
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
from tunewright.variants.qlora.options import QloraOptions
from tunewright.variants.qlora.variant import QloraVariant, keep_gradients_right


class TestQlora(AdapterConformance):
    variant_name: ClassVar[str] = "qlora"
    options: ClassVar[dict[str, Any]] = {"rank": 4, "alpha": 8, "dropout": 0.1}

    def check_final(self, trained: torch.nn.Module, loaded: torch.nn.Module) -> None:
        """The base is loaded in full precision: only the adapters are the same."""
        other = dict(loaded.named_parameters())
        for name, parameter in trained.named_parameters():
            if "lora_" in name:
                assert torch.equal(parameter, other[name]), name


def context_for(tmp_path: Path, weights: str = "pretrained", **config: Any) -> ModelContext:
    directory = make_model(tmp_path / "base", **config)
    if weights == "pretrained":
        save_weights(directory)
    spec = ModelSpec.model_validate({"name_or_path": str(directory), "weights": weights})
    return ModelContext(spec, ModelReference(name_or_path=str(directory)), 17, torch.device("cpu"), tmp_path / "run")


def build(context: ModelContext, **options: Any) -> tuple[QloraVariant, Any]:
    variant = QloraVariant(QloraOptions.model_validate(options))
    return variant, variant.prepare_model(variant.load_model(context), context)


def adapters_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}


def quantized(model: torch.nn.Module) -> list[Linear4bit]:
    return [module for module in model.modules() if isinstance(module, Linear4bit)]


@pytest.mark.parametrize("options", [{}, {"quant_type": "fp4"}, {"double_quant": False}])
def test_the_weights_beneath_the_adapters_are_in_four_bits_as_asked(tmp_path: Path, options: dict[str, Any]) -> None:
    _, model = build(context_for(tmp_path), **options)
    layers = quantized(model)
    assert len(layers) == 14
    state = layers[0].weight.quant_state
    assert state.quant_type == options.get("quant_type", "nf4")
    assert state.nested == options.get("double_quant", True)
    assert not isinstance(model.get_output_embeddings(), Linear4bit)


def test_quantized_logits_are_near_those_of_full_precision(tmp_path: Path) -> None:
    context = context_for(tmp_path)
    _, model = build(context)
    full = logits_of(AutoModelForCausalLM.from_pretrained(context.reference.name_or_path))
    error = (logits_of(model) - full).norm() / full.norm()
    assert 0.001 < error < 0.3


@pytest.mark.parametrize(("chosen", "expected"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_compute_dtype_is_the_experiments_unless_it_is_named(
    tmp_path: Path, chosen: str, expected: torch.dtype
) -> None:
    _, model = build(context_for(tmp_path), compute_dtype=chosen)
    assert {layer.compute_dtype for layer in quantized(model)} == {expected}


def test_no_layer_may_be_repacked_into_a_form_without_a_backward_pass(tmp_path: Path) -> None:
    _, model = build(context_for(tmp_path))
    for layer in quantized(model):
        layer.support_avx512bf16_for_cpu = True  # as it is by itself on CPUs that have AVX512-BF16
    keep_gradients_right(model)
    assert not any(layer.support_avx512bf16_for_cpu for layer in quantized(model))


def test_the_guard_is_in_place_in_every_model_that_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_layer = Linear4bit.__init__

    def on_such_a_cpu(self: Any, *arguments: Any, **options: Any) -> None:
        build_layer(self, *arguments, **options)
        self.support_avx512bf16_for_cpu = True

    monkeypatch.setattr(Linear4bit, "__init__", on_such_a_cpu)
    _, model = build(context_for(tmp_path))
    assert len(quantized(model)) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in quantized(model))


def test_layers_whose_inputs_are_no_multiple_of_64_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InvalidExperiment) as caught:
        build(context_for(tmp_path, intermediate_size=96))
    assert "down_proj (96)" in str(caught.value)
    assert "q_proj" not in str(caught.value)


def test_random_weights_are_kept_in_full_precision_as_the_adapters_base(tmp_path: Path) -> None:
    context = context_for(tmp_path, weights="random")
    variant, model = build(context)
    (tmp_path / "adapter").mkdir()
    variant.save_final(model, tmp_path / "adapter", context, adapters_of(model))
    assert model.peft_config["default"].base_model_name_or_path == str(tmp_path / "run" / "base_model")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    embeddings = loaded.get_input_embeddings().weight
    assert torch.equal(embeddings, model.get_input_embeddings().weight)
    assert not quantized(loaded)


def test_merging_adds_the_adapters_to_the_base_in_full_precision(tmp_path: Path) -> None:
    context = context_for(tmp_path)
    variant, model = build(context)
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "merged").mkdir()
    variant.save_final(model, tmp_path / "adapter", context, adapters_of(model))
    variant.merge(tmp_path / "adapter", tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(context.reference.name_or_path)
    before = logits_of(base)
    adapted = logits_of(PeftModel.from_pretrained(base, tmp_path / "adapter"))
    merged = logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    assert torch.allclose(merged, adapted, atol=1e-4)
    assert not torch.allclose(merged, before, atol=1e-2)


def test_dora_on_weights_in_four_bits_trains_goes_on_exactly_and_merges(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    save_weights(model)
    cache = make_cache(tmp_path / "cache", make_conversations(10))
    options = {"rank": 4, "alpha": 8, "use_dora": True}
    whole = make_job(
        tmp_path, model, cache, weights="pretrained", variant="qlora", options=options, num_epochs=3,
        checkpoint={"every_steps": 6},
    )  # fmt: skip
    run_training(open_job(whole))
    losses = [line["loss"] for line in metrics_of(whole)]
    assert losses[-1] < losses[0]
    resumed = cut_short(whole, tmp_path / "runs" / "resumed", keep="step-000006")
    run_training(open_job(resumed))
    assert model_bytes(resumed) == model_bytes(whole)
    export_model(whole.parent, tmp_path / "merged", merge=True)
    adapted = AutoPeftModelForCausalLM.from_pretrained(whole.parent / "model")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits_of(merged), logits_of(adapted), atol=1e-4)
    before = AutoModelForCausalLM.from_pretrained(model)
    assert not torch.allclose(logits_of(merged), logits_of(before), atol=1e-2)
