"""Variant `full`: every weight learns."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from tunewright.contracts.errors import UsageError
from tunewright.trainer.api import ModelContext, load_base_model, load_state_strictly, save_model


class FullVariant:
    """See `tunewright.trainer.api.TrainerVariant`."""

    def load(self, context: ModelContext) -> torch.nn.Module:
        """The base model as it is."""
        return load_base_model(context)

    def trained_state(self, model: torch.nn.Module) -> dict[str, torch.Tensor]:
        """Every parameter, tied ones once."""
        return dict(model.named_parameters())

    def load_trained_state(self, model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
        """All of them back."""
        load_state_strictly(model, state, set(self.trained_state(model)))

    def save(self, model: torch.nn.Module, directory: Path, context: ModelContext) -> None:
        """A whole model."""
        save_model(model, directory)

    def merge(self, saved: Path, directory: Path, context: ModelContext) -> None:
        """It is whole already."""
        if saved == directory:
            raise UsageError("--merge: a fully trained model has nothing to merge")
        shutil.copytree(saved, directory, dirs_exist_ok=True)
