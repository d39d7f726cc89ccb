"""What `[training.options]` may hold for variant `qlora`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tunewright.contracts.spec import Spec

ModuleName = Annotated[str, Field(min_length=1)]


class QloraOptions(Spec):
    """The adapters, and how the weights beneath them are held."""

    rank: int = Field(default=16, ge=1)
    """Width of the adapters. More learns more and costs more."""

    alpha: float = Field(default=32.0, gt=0, allow_inf_nan=False)
    """An adapter's output is scaled by alpha / rank."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of an adapter's inputs that is zeroed in training."""

    target_modules: Literal["all-linear"] | Annotated[tuple[ModuleName, ...], Field(min_length=1)] = "all-linear"
    """`all-linear`: every linear layer but the output's. Or names (`q_proj`); one that matches none is an error."""

    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) instead, which keeps large ranks stable."""

    bias: Literal["none"] = "none"
    """Biases stay as they are."""

    quant_type: Literal["nf4", "fp4"] = "nf4"
    """The 16 values of a weight: spaced as normally distributed weights are, or as 4-bit floats are."""

    double_quant: bool = True
    """Quantize the scales of the blocks as well: 0.4 bits less per weight."""

    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What multiplications run in. `auto`: the experiment's `model.dtype`."""
