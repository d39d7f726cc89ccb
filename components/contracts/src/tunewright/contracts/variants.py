"""A way to train: what a variant plugin registers. Names and options only; torch stays out of here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tunewright.contracts.registry import Registry
from tunewright.contracts.spec import Spec


@dataclass(frozen=True)
class VariantInfo:
    """What a plugin registers for one variant."""

    name: str
    """What users write in `training.variant`."""

    summary: str
    """One line for `trainer variants` and `launcher plugins`."""

    entry: str
    """`package.module:Class`, imported inside the job only. See `tunewright.trainer.api.TrainerVariant`."""

    options_type: type[Spec] | str
    """Parses `[training.options]`. Better as `package.module:Class`, imported when the variant is chosen."""

    api: int
    """The contracts' `API_VERSION` the plugin was written for."""

    strategies: frozenset[str] = field(default_factory=lambda: frozenset({"ddp"}))
    """The strategies it can be trained under; others are refused in preflight."""

    refusals: Mapping[str, str] = field(default_factory=dict)
    """Why it cannot be trained under others, by their names: what users are told."""

    conversations_per_row: int = 1
    """What it trains on, as dataset formats say it: 1, conversations; 2, preferences. Preflight refuses others."""


class VariantRegistry(Registry[VariantInfo]):
    """Passed into `tunewright_register_variants`."""

    noun = "variant"
