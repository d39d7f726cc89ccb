"""Cross-entropy over trained tokens, summed: the step divides by its number of tokens, whatever the micro-batches."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as functional

from tunewright.trainer.batches import FlatBatch, flatten
from tunewright.trainer.sequences import Sequence


def takes_positions(model: torch.nn.Module) -> bool:
    """Whether the model computes logits of given positions only (transformers' `logits_to_keep`)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def logits_of(model: torch.nn.Module, batch: FlatBatch, keeps_positions: bool) -> torch.Tensor:
    """Logits [P, V] of the predicting positions. P = predicted tokens, V = vocabulary.

    No attention mask and no cache: only then do transformers' models read sequence borders off the position ids.
    """
    inputs: dict[str, Any] = {
        "input_ids": batch.input_ids_1T, "position_ids": batch.position_ids_1T, "attention_mask": None, "use_cache": False,
    }  # fmt: skip
    if keeps_positions:
        logits_PV: torch.Tensor = model(**inputs, logits_to_keep=batch.predicting_P).logits[0]
        return logits_PV
    logits_TV: torch.Tensor = model(**inputs).logits[0]
    return logits_TV[batch.predicting_P]


def summed_loss(model: torch.nn.Module, batch: FlatBatch, keeps_positions: bool) -> torch.Tensor:
    """The sum of -log p(token) over the batch's trained tokens, in float32. A scalar with a graph."""
    logits_PV = logits_of(model, batch, keeps_positions)
    return functional.cross_entropy(logits_PV.float(), batch.targets_P, reduction="sum")


def keeps_sequences_apart(model: torch.nn.Module, vocabulary_size: int, device: torch.device) -> bool:
    """Whether two sequences in one row give the logits they give alone: asked of the model itself, once.

    A family of models that does not read position ids would let packed conversations look at one another.
    """
    generator = torch.Generator().manual_seed(0)
    pair = [torch.randint(vocabulary_size, (length,), generator=generator).numpy() for length in (5, 7)]
    sequences = [Sequence(ids, ids >= 0) for ids in pair]
    keeps = takes_positions(model)
    was_training = model.training
    model.eval()
    with torch.no_grad():
        packed = logits_of(model, flatten(sequences).to(device), keeps)
        alone = torch.cat([logits_of(model, flatten([one]).to(device), keeps) for one in sequences])
    model.train(was_training)
    scale = max(alone.abs().max().item(), 1e-6)
    return bool((packed - alone).abs().max().item() <= 1e-2 * scale)
