"""Full fine-tuning: the model as it is, every parameter trained."""

from __future__ import annotations

from typing import Any

from tunewright.trainer.api import ModelContext, VariantDefaults
from tunewright.variants.full.options import FullOptions


class FullVariant(VariantDefaults):
    """Trains every weight."""

    def __init__(self, options: FullOptions) -> None:
        self.options = options

    def prepare_model(self, model: Any, context: ModelContext) -> Any:
        """The model itself, every parameter requiring a gradient."""
        model.requires_grad_(True)
        return model
