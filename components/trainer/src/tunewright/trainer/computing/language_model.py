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
from tunewright.trainer.computing.embedding_noise import EmbeddingNoise
from tunewright.trainer.computing.loss_head import LossHead


@dataclass
class LanguageModel:
    """The model as it is called in training."""

    wrapped: Any
    """As the strategy wrapped it."""

    keeps_positions: bool
    """Whether it computes logits at chosen positions only."""

    label_smoothing: float = 0.0
    """Share of the target's probability that is spread over the vocabulary, in training."""

    head: LossHead | None = None
    """Gives losses without logits. None: logits are computed, of the N tokens where the model can choose."""

    noise: EmbeddingNoise | None = None
    """What is added to embeddings in training."""

    def summed_cross_entropy(self, batch: Batch) -> torch.Tensor:
        """The sum of the N cross-entropies, float32. Without smoothing where the model is in evaluation mode."""
        smoothing = self.label_smoothing if self.wrapped.training else 0.0
        if self.head is None:
            logits = self.trained_logits(batch).float()
            return cross_entropy(logits, batch.labels, reduction="sum", label_smoothing=smoothing)
        with self.head.summing(batch.labels, smoothing, self._positions_for_head(batch)):
            return self._trained_outputs(batch).sum()

    def token_log_probabilities(self, batch: Batch) -> torch.Tensor:
        """Log-probability (N,) of each trained token, float32, in the order of `batch.labels`."""
        if self.head is None:
            return -cross_entropy(self.trained_logits(batch).float(), batch.labels, reduction="none")
        with self.head.scoring(batch.labels, self._positions_for_head(batch)):
            return self._trained_outputs(batch)[:, 0]

    def trained_logits(self, batch: Batch) -> torch.Tensor:
        """Logits (N, V) at the positions that predict trained tokens."""
        outputs = self._trained_outputs(batch)
        return outputs if self.keeps_positions else outputs[batch.predicting]

    def logits(self, batch: Batch, **arguments: Any) -> torch.Tensor:
        """What the model gives at every position: (T, V), or (T, labels) of a model that classifies.

        No attention mask and no cache: with either, transformers does not keep conversations of one row apart.
        """
        if self.noise is not None:
            self.noise.lengths = batch.lengths
        output = self.wrapped(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **arguments)
        logits: torch.Tensor = output.logits[0]
        return logits

    def _trained_outputs(self, batch: Batch) -> torch.Tensor:
        """What the model gives, asked for chosen positions where it can choose."""
        return self.logits(batch, logits_to_keep=batch.predicting) if self.keeps_positions else self.logits(batch)

    def _positions_for_head(self, batch: Batch) -> torch.Tensor | None:
        """Which hidden states the head has to pick itself."""
        return None if self.keeps_positions else batch.predicting


def takes_positions_to_keep(transformer: torch.nn.Module) -> bool:
    """Whether the model can compute logits at chosen positions only (`logits_to_keep` with a tensor of indices)."""
    return "logits_to_keep" in inspect.signature(transformer.forward).parameters
