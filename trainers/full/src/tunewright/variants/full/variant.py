"""Full fine-tuning: the model as it is, every parameter trained."""

from __future__ import annotations

from tunewright.trainer.api import VariantDefaults
from tunewright.variants.full.options import FullOptions


class FullVariant(VariantDefaults):
    """Trains every weight."""

    def __init__(self, options: FullOptions) -> None:
        self.options = options
