"""How much of what the machine could do a training does: operations a model needs, and peaks of common devices.

What is counted is what the mathematics needs, not what is run: activation checkpointing computes more, and the figure
(model FLOPs utilization, MFU) does not grow by it. Source: appendix B of PaLM (Chowdhery et al. 2022,
https://arxiv.org/abs/2204.02311), with causal attention at half of it, and with frozen weights: they need no gradient,
which leaves 4 of the 6 operations per weight and token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

_TRAINED, _FROZEN = 6, 4
_ATTENTION = 6
"""Operations per layer, entry of the heads, and pair of tokens in one conversation, of which half are masked."""

PEAK_TFLOPS: tuple[tuple[str, float, float], ...] = (
    ("B200", 2250.0, 75.0),
    ("GH200", 989.4, 66.9),
    ("H200", 989.4, 66.9),
    ("H100 PCIe", 756.0, 51.2),
    ("H100 NVL", 835.0, 60.0),
    ("H100", 989.4, 66.9),
    ("A100", 311.8, 19.5),
    ("L40S", 362.05, 91.6),
    ("L40", 181.05, 90.5),
    ("L4", 121.0, 30.3),
    ("A40", 149.7, 37.4),
    ("A10G", 70.0, 35.0),
    ("A10", 125.0, 31.2),
    ("RTX 4090", 165.2, 82.6),
    ("RTX 3090", 71.2, 35.6),
    ("V100", 125.0, 15.7),
    ("T4", 65.0, 8.1),
)
"""Part of a device's name, its peak in bfloat16 or float16, and in float32: data sheets of NVIDIA, dense, SXM if not
said otherwise. The first that matches counts. V100 and T4 have float16 only."""


@dataclass(frozen=True)
class ModelCost:
    """Operations that training a model takes."""

    per_token: float
    """Of every token."""

    per_trained_token: float
    """Of a token that counts in the loss, besides: the output layer."""

    per_squared_length: float
    """Of a conversation of T tokens, T x T times: attention."""

    def operations(self, num_tokens: int, num_trained: int, squared_lengths: int) -> float:
        """Of tokens, trained ones among them, and conversations by the squares of their lengths."""
        return (
            self.per_token * num_tokens
            + self.per_trained_token * num_trained
            + self.per_squared_length * squared_lengths
        )


def cost_of(model: torch.nn.Module, transformer: Any) -> ModelCost:
    """What `model` takes, the transformers model `transformer` in it; before it is cut in pieces."""
    config = transformer.config.get_text_config()
    head, embeddings = transformer.get_output_embeddings(), transformer.get_input_embeddings()
    of_head = {id(one) for one in head.parameters()} if head is not None else set()
    elsewhere = of_head | {id(one) for one in embeddings.parameters()}
    share = _share_of_experts(config)
    per_token = sum(
        _per_weight(one) * _num_weights(one) * (share if ".experts." in name else 1.0)
        for name, one in model.named_parameters()
        if id(one) not in elsewhere
    )
    per_trained = sum(_per_weight(one) * _num_weights(one) for one in head.parameters()) if head is not None else 0.0
    heads = getattr(config, "num_attention_heads", 0)
    width = heads * (getattr(config, "head_dim", None) or config.hidden_size // max(1, heads))
    return ModelCost(per_token, per_trained, float(_ATTENTION * config.num_hidden_layers * width))


def _per_weight(parameter: torch.Tensor) -> int:
    return _TRAINED if parameter.requires_grad else _FROZEN


def _num_weights(parameter: Any) -> int:
    """Also of a matrix kept in four bits, whose tensor has another shape."""
    state = getattr(parameter, "quant_state", None)
    return int(state.shape.numel()) if state is not None else int(parameter.numel())


def _share_of_experts(config: Any) -> float:
    """How much of a mixture of experts a token goes through."""
    count = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None)
    used = getattr(config, "num_experts_per_tok", None)
    return used / count if count and used else 1.0


def peak_tflops(device: torch.device, dtype: torch.dtype, stated: float | None) -> float | None:
    """Of one device, in 10^12 operations a second: as `training.peak_tflops` says, else as known. None: not known."""
    if stated is not None or device.type != "cuda":
        return stated
    return known_peak(torch.cuda.get_device_name(device), dtype)


def known_peak(device_name: str, dtype: torch.dtype) -> float | None:
    """By the name that the driver gives the device."""
    for part, half, single in PEAK_TFLOPS:
        if part in device_name.replace("-", " ").split(" ") or (" " in part and part in device_name):
            return single if dtype is torch.float32 else half
    return None
