"""What `[training.options]` may hold for variant `qlora`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunewright.contracts.spec import Spec


class QloraOptions(Spec):
    """The adapter, and how the weights below it are kept."""

    rank: int = Field(default=16, ge=1)
    """The adapter's rank: what it can learn, and its size, grow with it."""

    alpha: float = Field(default=32.0, gt=0)
    """The adapter is scaled by alpha / rank."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the adapter's input that is dropped in training."""

    target_modules: str | tuple[str, ...] = "all-linear"
    """`all-linear`, or names of modules (`q_proj`). A name that matches nothing is an error."""

    quant_type: Literal["nf4", "fp4"] = "nf4"
    """The four-bit type: `nf4` fits weights that are spread normally (Dettmers et al. 2023)."""

    double_quant: bool = True
    """Quantize the quantization's own constants too: about 0.4 bits a weight less."""

    compute_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What weights are unpacked to for the matrix products."""
