"""Registers variant `dpo`."""

from __future__ import annotations

from tunewright.contracts.hookspecs import hookimpl
from tunewright.contracts.variants import VariantInfo, VariantRegistry


@hookimpl
def tunewright_register_variants(register: VariantRegistry) -> None:
    """Add `dpo`."""
    register.add(
        VariantInfo(
            name="dpo",
            summary="makes chosen answers likelier than rejected ones",
            entry="tunewright.variants.dpo.variant:DpoVariant",
            options_type="tunewright.variants.dpo.options:DpoOptions",
            api=1,
            conversations_per_row=2,
            strategies=frozenset({"ddp", "deepspeed_zero2", "deepspeed_zero3", "fsdp2"}),
        )
    )
