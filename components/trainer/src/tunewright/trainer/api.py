"""What a training variant is written against. The only module of the trainer that `trainers/*` may import.

A variant decides which parameters learn, how the model is loaded for that, and what of it is kept. The loop, the loss,
the data, checkpoints and records are the trainer's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch

from tunewright.trainer.adapters import AdapterOptions, adapter_names, attach_adapter, merge_adapter, save_adapter
from tunewright.trainer.models import ModelContext, ensure_base_weights, load_base_model, save_model


class TrainerVariant(Protocol):
    """One way to train. Made without arguments, once for each process."""

    def load(self, context: ModelContext) -> torch.nn.Module:
        """The model on the CPU, ready to train: `requires_grad` is set on the parameters that learn, and on no other.

        Raises InvalidExperiment for options that do not fit the model.
        """

    def trained_state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """The tensors of a checkpoint, by name: all that training changes, and no more. `load_trained_state` takes them."""

    def load_trained_state(self, model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
        """Put a checkpoint's tensors into a model that `load` gave. A missing or an extra name is an error."""

    def save(self, model: torch.nn.Module, directory: Path, context: ModelContext) -> None:
        """Write what users load, with transformers or peft, into the empty `directory`. Safetensors only."""

    def merge(self, saved: Path, directory: Path, context: ModelContext) -> None:
        """Write a whole model that transformers loads into `directory`, from what `save` wrote into `saved`."""


def load_state_strictly(model: torch.nn.Module, state: dict[str, torch.Tensor], names: set[str]) -> None:
    """Copy `state` into the parameters and buffers `names` of `model`. Raises KeyError where the names differ."""
    if names != state.keys():
        raise KeyError(f"the checkpoint's tensors differ from the model's: {sorted(names ^ state.keys())[:5]}")
    own: dict[str, Any] = model.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


__all__ = [
    "AdapterOptions",
    "ModelContext",
    "TrainerVariant",
    "adapter_names",
    "attach_adapter",
    "ensure_base_weights",
    "load_base_model",
    "load_state_strictly",
    "merge_adapter",
    "save_adapter",
    "save_model",
]
