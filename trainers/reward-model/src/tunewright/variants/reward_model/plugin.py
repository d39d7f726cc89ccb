"""Registers variant `reward_model`."""

from __future__ import annotations

from tunewright.contracts.hookspecs import hookimpl
from tunewright.contracts.variants import VariantInfo, VariantRegistry


@hookimpl
def tunewright_register_variants(register: VariantRegistry) -> None:
    """Add `reward_model`."""
    register.add(
        VariantInfo(
            name="reward_model",
            summary="trains a score that ranks chosen answers above rejected ones",
            entry="tunewright.variants.reward_model.variant:RewardModelVariant",
            options_type="tunewright.variants.reward_model.options:RewardModelOptions",
            api=1,
            conversations_per_row=2,
            strategies=frozenset({"ddp", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"}),
        )
    )
