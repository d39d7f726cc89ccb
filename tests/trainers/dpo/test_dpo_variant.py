"""Variant `dpo`, with all weights trained and with adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import AutoModelForCausalLM

from conformance.variant_suite import AdapterConformance, VariantConformance


class TestDpo(VariantConformance):
    variant_name: ClassVar[str] = "dpo"
    sequences_per_example: ClassVar[int] = 2

    def is_trained(self, name: str) -> bool:
        return True

    def load_final(self, directory: Path) -> torch.nn.Module:
        model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(directory)
        return model


class TestDpoWithAdapters(AdapterConformance):
    variant_name: ClassVar[str] = "dpo"
    options: ClassVar[dict[str, Any]] = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}
    sequences_per_example: ClassVar[int] = 2
