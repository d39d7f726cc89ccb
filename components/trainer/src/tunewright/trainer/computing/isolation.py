"""Whether a model keeps conversations apart that share a row: tried out before the first step, not assumed."""

from __future__ import annotations

import torch

_LENGTH_TOKENS = 12
_RELATIVE_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@torch.no_grad()
def keeps_sequences_apart(
    model: torch.nn.Module, vocabulary_size: int, device: torch.device, dtype: torch.dtype
) -> bool:
    """Whether a second sequence in a row has the logits it has alone, and does not change when the first one does.

    The second comparison is exact in any precision and on any weights: it is what finds a leak. The first also finds
    positions that do not restart. Draws from a generator of its own; leaves the model in training mode.
    """
    generator = torch.Generator().manual_seed(0)
    draw = torch.randint(0, vocabulary_size, (3, _LENGTH_TOKENS), generator=generator).to(device)
    first, second, other = draw[0:1], draw[1:2], draw[2:3]
    model.eval()
    with torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
        alone = _logits(model, second)
        packed, changed = _logits(model, first, second), _logits(model, other, second)
    model.train()
    scale = alone.abs().max().clamp_min(1e-30)
    leaked, moved = (packed - changed).abs().max() / scale, (packed - alone).abs().max() / scale
    return bool(leaked <= 1e-6) and bool(moved <= _RELATIVE_TOLERANCE[dtype])


def _logits(model: torch.nn.Module, *sequences: torch.Tensor) -> torch.Tensor:
    """Logits of the last of `sequences`, laid end to end."""
    positions = torch.cat([torch.arange(one.shape[1], device=one.device) for one in sequences])[None]
    logits: torch.Tensor = model(input_ids=torch.cat(sequences, dim=1), position_ids=positions, use_cache=False).logits
    return logits[0, -sequences[-1].shape[1] :].float()
