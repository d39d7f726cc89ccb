"""The loss: cross-entropy in float32, summed over the trained tokens of a forward pass, computed for those alone.

Shapes: N trained tokens, V entries of the vocabulary.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from tunewright.trainer.batches import Batch


def takes_positions_to_keep(transformer: torch.nn.Module) -> bool:
    """Whether the model can compute logits at chosen positions only (`logits_to_keep` with a tensor of indices)."""
    return "logits_to_keep" in inspect.signature(transformer.forward).parameters


def trained_logits(model: torch.nn.Module, batch: Batch, keeps_positions: bool) -> torch.Tensor:
    """Logits (N, V) at the positions that predict trained tokens.

    No attention mask and no cache: with either, transformers does not keep conversations of one row apart.
    """
    arguments: dict[str, Any] = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "use_cache": False}
    if keeps_positions:
        kept: torch.Tensor = model(**arguments, logits_to_keep=batch.predicting).logits[0]
        return kept
    logits: torch.Tensor = model(**arguments).logits[0]
    return logits[batch.predicting]


def summed_loss(model: torch.nn.Module, batch: Batch, keeps_positions: bool) -> torch.Tensor:
    """The sum of the N cross-entropies, float32. Divide by the trained tokens of the whole optimizer step."""
    logits_NV = trained_logits(model, batch, keeps_positions)
    return cross_entropy(logits_NV.float(), batch.labels, reduction="sum")
