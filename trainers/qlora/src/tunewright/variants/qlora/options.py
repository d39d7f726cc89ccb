"""What `[training.options]` may hold for variant `qlora`."""

from __future__ import annotations

from typing import Literal

from tunewright.contracts.adapters import AdapterOptions


class QloraOptions(AdapterOptions):
    """The adapters, and how the weights beneath them are held."""

    quant_type: Literal["nf4", "fp4"] = "nf4"
    """The 16 values of a weight: spaced as normally distributed weights are, or as 4-bit floats are."""

    double_quant: bool = True
    """Quantize the scales of the blocks as well: 0.4 bits less per weight."""

    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """What multiplications run in. `auto`: the experiment's `model.dtype`."""
