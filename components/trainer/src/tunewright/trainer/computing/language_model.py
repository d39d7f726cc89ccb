"""How the trainer calls the model: one row of conversations in, losses or log-probabilities of the trained tokens out.

Shapes: T tokens of a forward pass, N of them predicted and trained, V entries of the vocabulary.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from tunewright.trainer.batches import Batch


@dataclass
class LanguageModel:
    """The model as it is called in training."""

    wrapped: Any
    """As the strategy wrapped it."""

    keeps_positions: bool
    """Whether it computes logits at chosen positions only."""

    label_smoothing: float = 0.0
    """Share of the target's probability that is spread over the vocabulary, in training."""

    def summed_cross_entropy(self, batch: Batch) -> torch.Tensor:
        """The sum of the N cross-entropies, float32. Without smoothing where the model is in evaluation mode."""
        smoothing = self.label_smoothing if self.wrapped.training else 0.0
        return cross_entropy(
            self.trained_logits(batch).float(), batch.labels, reduction="sum", label_smoothing=smoothing
        )

    def token_log_probabilities(self, batch: Batch) -> torch.Tensor:
        """Log-probability (N,) of each trained token, float32, in the order of `batch.labels`."""
        return -cross_entropy(self.trained_logits(batch).float(), batch.labels, reduction="none")

    def trained_logits(self, batch: Batch) -> torch.Tensor:
        """Logits (N, V) at the positions that predict trained tokens."""
        if self.keeps_positions:
            kept: torch.Tensor = self.logits(batch, logits_to_keep=batch.predicting)
            return kept
        return self.logits(batch)[batch.predicting]

    def logits(self, batch: Batch, **arguments: Any) -> torch.Tensor:
        """What the model gives at every position: (T, V), or (T, labels) of a model that classifies.

        No attention mask and no cache: with either, transformers does not keep conversations of one row apart.
        """
        output = self.wrapped(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **arguments)
        logits: torch.Tensor = output.logits[0]
        return logits


def takes_positions_to_keep(transformer: torch.nn.Module) -> bool:
    """Whether the model can compute logits at chosen positions only (`logits_to_keep` with a tensor of indices)."""
    return "logits_to_keep" in inspect.signature(transformer.forward).parameters
