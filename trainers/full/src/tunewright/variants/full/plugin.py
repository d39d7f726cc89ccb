"""Registers variant `full`."""

from __future__ import annotations

from tunewright.contracts.hookspecs import hookimpl
from tunewright.contracts.variants import VariantInfo, VariantRegistry


@hookimpl
def tunewright_register_variants(register: VariantRegistry) -> None:
    """Add `full`."""
    register.add(
        VariantInfo(
            name="full",
            summary="trains every weight",
            entry="tunewright.variants.full.variant:FullVariant",
            options_type="tunewright.variants.full.options:FullOptions",
            api=1,
            strategies=frozenset({"ddp", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"}),
        )
    )
