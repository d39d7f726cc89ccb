"""Variant `reward_model`, with all weights trained and with adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForSequenceClassification

from conformance.variant_suite import VariantConformance


class TestRewardModel(VariantConformance):
    variant_name: ClassVar[str] = "reward_model"
    sequences_per_example: ClassVar[int] = 2

    def is_trained(self, name: str) -> bool:
        return True

    def load_final(self, directory: Path) -> torch.nn.Module:
        model: torch.nn.Module = AutoModelForSequenceClassification.from_pretrained(directory)
        return model

    @torch.no_grad()
    def check_final(self, trained: torch.nn.Module, loaded: torch.nn.Module) -> None:
        ids = torch.arange(3, 20)[None]
        scores = trained.eval()(input_ids=ids).logits[0, :, 0]
        reward = loaded.eval()(input_ids=ids).logits
        assert reward.shape == (1, 1)
        assert torch.allclose(reward[0, 0], scores[-1], atol=1e-5)
        assert not torch.allclose(scores[-1], scores[0], atol=1e-2)


class TestRewardModelWithAdapters(TestRewardModel):
    options: ClassVar[dict[str, Any]] = {"lora": {"rank": 4, "alpha": 8, "dropout": 0.1}}

    def is_trained(self, name: str) -> bool:
        return "lora_" in name or "score.modules_to_save" in name

    def load_final(self, directory: Path) -> torch.nn.Module:
        model: torch.nn.Module = AutoPeftModelForSequenceClassification.from_pretrained(directory, num_labels=1)
        return model
