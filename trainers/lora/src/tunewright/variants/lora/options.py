"""What `[training.options]` may hold for variant `lora`."""

from __future__ import annotations

from pydantic import Field

from tunewright.contracts.spec import Spec


class LoraOptions(Spec):
    """The adapter: its size, and where it goes."""

    rank: int = Field(default=16, ge=1)
    """The adapter's rank: what it can learn, and its size, grow with it."""

    alpha: float = Field(default=32.0, gt=0)
    """The adapter is scaled by alpha / rank."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's input that is dropped in training."""

    target_modules: str | tuple[str, ...] = "all-linear"
    """`all-linear`, or names of modules (`q_proj`). A name that matches nothing is an error."""
