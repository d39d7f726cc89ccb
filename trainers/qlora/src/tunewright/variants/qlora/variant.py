"""QLoRA: the model frozen in four bits by bitsandbytes, low-rank adapters on its layers trained in float32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.trainer.api import AdapterDefaults, ModelContext, dtype_named, frozen_base, load_config, load_weights
from tunewright.variants.qlora.options import QloraOptions

_BLOCK = 64
_LISTED = 5


class QloraVariant(AdapterDefaults):
    """Trains low-rank adapters on weights frozen in four bits."""

    def __init__(self, options: QloraOptions) -> None:
        super().__init__(options)
        self.quantization = options
        self._to_be_quantized: set[int] = set()

    def load_model(self, context: ModelContext) -> Any:
        """The base with its linear layers but the output's in four bits; everything else float32."""
        base = frozen_base(context)
        refuse_uneven_layers(base)
        model = load_weights(
            base, quantization_config=self._quantization_config(context), device_map={"": str(context.device)}
        )
        if context.without_weights:
            self._to_be_quantized = {id(layer.weight) for _, layer in layers_to_quantize(model)}
        keep_gradients_right(model)
        return model

    def weight_bytes(self, name: str, parameter: torch.Tensor) -> int:
        """Half a byte an entry where it is quantized, and the scale of each block: a byte, or float32."""
        if id(parameter) not in self._to_be_quantized:
            return super().weight_bytes(name, parameter)
        scale_bytes = 1 if self.quantization.double_quant else 4
        return parameter.numel() // 2 + parameter.numel() // _BLOCK * scale_bytes

    def _quantization_config(self, context: ModelContext) -> Any:
        from transformers import BitsAndBytesConfig

        chosen = self.quantization.compute_dtype
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.quantization.quant_type,
            bnb_4bit_use_double_quant=self.quantization.double_quant,
            bnb_4bit_compute_dtype=context.dtype if chosen == "auto" else dtype_named(chosen),
        )


def keep_gradients_right(model: torch.nn.Module) -> None:
    """Keep bitsandbytes from repacking weights for CPUs with AVX512-BF16.

    The packed form has no backward pass: after one forward pass in evaluation mode the gradients of all adapters
    below would be wrong, without an error (bitsandbytes 0.50.2).
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def refuse_uneven_layers(context: ModelContext) -> None:
    """Raise InvalidExperiment for layers whose inputs are no multiple of 64: bitsandbytes gets them wrong on CPU."""
    uneven = uneven_layers(_shapes_only(context))
    if uneven:
        listed = ", ".join(uneven[:_LISTED]) + (", ..." if len(uneven) > _LISTED else "")
        message = f"qlora needs layers whose inputs are a multiple of {_BLOCK}; {len(uneven)} are not: {listed}"
        problem = Problem("model.name_or_path", message, "train this model with variant `lora`")
        raise InvalidExperiment.from_problems(context.reference.name_or_path, [problem])


def uneven_layers(model: Any) -> list[str]:
    """Names, with their inputs, of the layers that would be quantized and whose inputs are no multiple of 64."""
    return [f"{name} ({layer.in_features})" for name, layer in layers_to_quantize(model) if layer.in_features % _BLOCK]


def layers_to_quantize(model: Any) -> Iterator[tuple[str, torch.nn.Linear]]:
    """All linear layers but the output's, with their names."""
    output = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not output:
            yield name, module


def _shapes_only(context: ModelContext) -> Any:
    """The model without memory for its weights."""
    from transformers import AutoModelForCausalLM

    config = load_config(context)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
