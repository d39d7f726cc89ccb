"""Registers variant `qlora`."""

from __future__ import annotations

from tunewright.contracts.hookspecs import hookimpl
from tunewright.contracts.variants import VariantInfo, VariantRegistry
from tunewright.variants.qlora.options import QloraOptions


@hookimpl
def tunewright_register_variants(register: VariantRegistry) -> None:
    """Add `qlora`."""
    register.add(
        VariantInfo(
            name="qlora",
            summary="trains low-rank adapters on weights frozen in four bits",
            entry="tunewright.variants.qlora.variant:QloraVariant",
            options_type=QloraOptions,
            api=1,
            strategies=frozenset({"ddp"}),
        )
    )
