"""LoRA: the model frozen in float32, low-rank adapters on its layers trained."""

from __future__ import annotations

from tunewright.trainer.api import AdapterDefaults
from tunewright.variants.lora.options import LoraOptions


class LoraVariant(AdapterDefaults):
    """Trains low-rank adapters."""

    def __init__(self, options: LoraOptions) -> None:
        super().__init__(options)
