"""What `[training.options]` may hold for variant `reward_model`."""

from __future__ import annotations

from pydantic import Field

from tunewright.contracts.adapters import AdapterOptions
from tunewright.contracts.spec import Spec


class RewardModelOptions(Spec):
    """A reward model: how far apart rewards shall be, and whether adapters or all weights are trained."""

    margin: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """By how much a chosen answer's reward shall be above the rejected one's."""

    center_rewards_coefficient: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Strength of what pulls the two rewards of a pair towards a sum of 0 (https://arxiv.org/abs/2312.09244)."""

    lora: AdapterOptions | None = None
    """Options of LoRA adapters, trained with the score instead of the model. None: every weight is trained."""
