"""Registers variant `lora`."""

from __future__ import annotations

from tunewright.contracts.hookspecs import hookimpl
from tunewright.contracts.variants import VariantInfo, VariantRegistry


@hookimpl
def tunewright_register_variants(register: VariantRegistry) -> None:
    """Add `lora`."""
    register.add(
        VariantInfo(
            name="lora",
            summary="trains low-rank adapters on frozen weights",
            entry="tunewright.variants.lora.variant:LoraVariant",
            options_type="tunewright.variants.lora.options:LoraOptions",
            api=1,
            strategies=frozenset({"ddp", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"}),
        )
    )
