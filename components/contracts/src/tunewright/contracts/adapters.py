"""The options that every variant with low-rank adapters has: written once, so that they mean the same everywhere."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tunewright.contracts.spec import Spec

ModuleName = Annotated[str, Field(min_length=1)]


class AdapterOptions(Spec):
    """Low-rank adapters (LoRA, https://arxiv.org/abs/2106.09685): how wide, how strong, and where."""

    rank: int = Field(default=16, ge=1)
    """Width of the adapters. More learns more and costs more."""

    alpha: float = Field(default=32.0, gt=0, allow_inf_nan=False)
    """An adapter's output is scaled by alpha / rank."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is zeroed in training."""

    target_modules: Literal["all-linear"] | Annotated[tuple[ModuleName, ...], Field(min_length=1)] = "all-linear"
    """`all-linear`: every linear layer but the output's. Or names (`q_proj`); one that matches none is an error."""

    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) instead, which keeps large ranks stable (https://arxiv.org/abs/2312.03732)."""

    use_dora: bool = False
    """Train the weights' magnitudes apart from their directions: better at small ranks, slower (https://arxiv.org/abs/2402.09353)."""

    bias: Literal["none"] = "none"
    """Biases stay as they are."""
