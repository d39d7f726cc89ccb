"""What matrices are really multiplied in, on the machine that is there."""

from __future__ import annotations

import torch


def computed_dtype(asked: str, strategy: str, device: torch.device) -> str:
    """What forward passes compute in where `asked` is `model.dtype`.

    bfloat16 becomes float32 on a CPU without instructions for it, where torch is some 70 times slower in it: weights
    are float32 already, and the numbers are more exact and not less. The strategies that round the weights themselves
    to bfloat16, to hold and to send half, do what was asked.
    """
    is_autocast = strategy == "ddp"
    return "float32" if asked == "bfloat16" and is_autocast and computes_faster_in_float32(device) else asked


def computes_faster_in_float32(device: torch.device) -> bool:
    """Whether this is a CPU without instructions for bfloat16."""
    return device.type == "cpu" and not has_bfloat16_instructions()


def has_bfloat16_instructions() -> bool:
    """Whether this machine's CPU multiplies bfloat16 itself (AVX512_BF16, AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
