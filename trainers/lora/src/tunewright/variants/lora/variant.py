"""Variant `lora`: low-rank adapters learn, the weights stay."""

from __future__ import annotations

from pathlib import Path

import torch

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
from tunewright.variants.lora.options import LoraOptions


class LoraVariant:
    """See `tunewright.trainer.api.TrainerVariant`."""

    def load(self, context: ModelContext) -> torch.nn.Module:
        """The base model, frozen, with a fresh adapter."""
        assert isinstance(context.options, LoraOptions)
        ensure_base_weights(context)
        return attach_adapter(load_base_model(context), context.options, context.seed)

    def trained_state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The adapter's tensors."""
        names = adapter_names(model)
        return {name: parameter for name, parameter in model.named_parameters() if name in names}

    def load_trained_state(self, model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
        """They go back."""
        load_state_strictly(model, state, adapter_names(model))

    def save(self, model: torch.nn.Module, directory: Path, context: ModelContext) -> None:
        """The adapter alone, in peft's format."""
        save_adapter(model, directory, context)

    def merge(self, saved: Path, directory: Path, context: ModelContext) -> None:
        """Base and adapter in one."""
        merge_adapter(saved, directory, context)
