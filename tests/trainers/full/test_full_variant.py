"""Variant `full`."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM

from conformance.variant_suite import VariantConformance
from tunewright.contracts.errors import UsageError
from tunewright.variants.full.options import FullOptions
from tunewright.variants.full.variant import FullVariant


class TestFull(VariantConformance):
    variant_name: ClassVar[str] = "full"

    def is_trained(self, name: str) -> bool:
        return True

    def load_final(self, directory: Path) -> torch.nn.Module:
        model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(directory)
        return model


def test_there_is_nothing_to_merge(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no adapters"):
        FullVariant(FullOptions()).merge(tmp_path, tmp_path / "merged")
