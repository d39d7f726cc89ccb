"""Registers variant `qlora`."""

from __future__ import annotations

from tunewright.contracts.hookspecs import hookimpl
from tunewright.contracts.variants import VariantInfo, VariantRegistry

_CUTS_WEIGHTS = "would cut the four-bit weights in pieces, which bitsandbytes can read as a whole only"


@hookimpl
def tunewright_register_variants(register: VariantRegistry) -> None:
    """Add `qlora`."""
    register.add(
        VariantInfo(
            name="qlora",
            summary="trains low-rank adapters on weights frozen in four bits",
            entry="tunewright.variants.qlora.variant:QloraVariant",
            options_type="tunewright.variants.qlora.options:QloraOptions",
            api=1,
            strategies=frozenset({"ddp", "deepspeed_zero2"}),
            refusals={
                "deepspeed_zero3": f"ZeRO-3 {_CUTS_WEIGHTS}: use deepspeed_zero2, or variant `lora`",
                "fsdp2": f"FSDP2 {_CUTS_WEIGHTS}: use deepspeed_zero2, or variant `lora`",
            },
        )
    )
