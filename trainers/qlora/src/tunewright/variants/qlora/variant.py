"""Variant `qlora`: low-rank adapters learn, the weights stay and are kept in four bits."""

from __future__ import annotations

from pathlib import Path

import torch

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.trainer.api import (
    ModelContext,
    adapter_names,
    attach_adapter,
    ensure_base_weights,
    load_base_model,
    load_state_strictly,
    merge_adapter,
    save_adapter,
)
from tunewright.variants.qlora.options import QloraOptions

# bitsandbytes 0.50 on the CPU unpacks other widths wrongly, without a word.
FEATURES_MULTIPLE = 64


class QloraVariant:
    """See `tunewright.trainer.api.TrainerVariant`."""

    def load(self, context: ModelContext) -> torch.nn.Module:
        """The base model in four bits, frozen, with a fresh adapter."""
        import bitsandbytes
        from transformers import BitsAndBytesConfig

        options = context.options
        assert isinstance(options, QloraOptions)
        ensure_base_weights(context)
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=options.quant_type,
            bnb_4bit_use_double_quant=options.double_quant,
            bnb_4bit_compute_dtype=getattr(torch, options.compute_dtype),
        )
        model = load_base_model(context, quantization_config=quantization, device_map={"": _device()})
        quantized = {name: one for name, one in model.named_modules() if isinstance(one, bitsandbytes.nn.Linear4bit)}
        check_widths({name: module.in_features for name, module in quantized.items()})
        for module in quantized.values():
            # With it, one evaluation pass repacks the weight and every later gradient is wrong (bitsandbytes 0.50, CPU).
            module.support_avx512bf16_for_cpu = False
        for parameter in model.parameters():
            parameter.requires_grad = False
        return attach_adapter(model, options, context.seed)

    def trained_state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The adapter's tensors."""
        names = adapter_names(model)
        return {name: parameter for name, parameter in model.named_parameters() if name in names}

    def load_trained_state(self, model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
        """They go back."""
        load_state_strictly(model, state, adapter_names(model))

    def save(self, model: torch.nn.Module, directory: Path, context: ModelContext) -> None:
        """The adapter alone, in peft's format; it loads onto the base in full precision or in four bits."""
        save_adapter(model, directory, context)

    def merge(self, saved: Path, directory: Path, context: ModelContext) -> None:
        """The base in full precision and the adapter in one."""
        merge_adapter(saved, directory, context)


def _device() -> str | int:
    return torch.cuda.current_device() if torch.cuda.is_available() else "cpu"


def check_widths(in_features: dict[str, int]) -> None:
    """Raise InvalidExperiment naming the modules whose width bitsandbytes would unpack wrongly on a CPU."""
    wrong = [f"{name} ({width})" for name, width in in_features.items() if width % FEATURES_MULTIPLE]
    if wrong and not torch.cuda.is_available():
        shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        problem = Problem(
            "training.variant",
            f"qlora on a CPU needs in_features that are multiples of {FEATURES_MULTIPLE}; the model has {shown}",
            "use `lora`, or a GPU",
        )
        raise InvalidExperiment.from_problems("job", [problem])
