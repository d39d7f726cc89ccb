"""From conversations to what a forward pass takes: one row without padding, positions restarting at each conversation.

Shapes: T tokens of all conversations of the pass together, N of them predicted and trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tunewright.trainer.dataset import TokenSequence


@dataclass(frozen=True)
class Batch:
    """One forward pass."""

    input_ids: torch.Tensor
    """(1, T) int64."""

    position_ids: torch.Tensor
    """(1, T) int64, from 0 in each conversation: this alone keeps attention inside it."""

    predicting: torch.Tensor
    """(N,) int64: the positions whose logits are needed; each predicts the token after it."""

    labels: torch.Tensor
    """(N,) int64: those tokens."""

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.input_ids.shape[1]

    @property
    def num_trained(self) -> int:
        """N."""
        return self.labels.shape[0]

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        return Batch(
            self.input_ids.to(device), self.position_ids.to(device), self.predicting.to(device), self.labels.to(device)
        )


def make_batch(sequences: Sequence[TokenSequence]) -> Batch:
    """`sequences` (at least one) laid end to end."""
    starts = np.cumsum([0, *(len(sequence.ids) for sequence in sequences)])
    positions = [np.arange(len(sequence.ids)) for sequence in sequences]
    targets = [start + sequence.predicted() for start, sequence in zip(starts, sequences, strict=False)]
    ids = torch.from_numpy(np.concatenate([sequence.ids for sequence in sequences]).astype(np.int64))
    target = torch.from_numpy(np.concatenate(targets))
    return Batch(ids[None], torch.from_numpy(np.concatenate(positions))[None], target - 1, ids[target])


def count_trained(sequences: Sequence[TokenSequence]) -> int:
    """Trained tokens of `sequences`, known without a forward pass."""
    return sum(len(sequence.predicted()) for sequence in sequences)


def count_tokens(sequences: Sequence[TokenSequence]) -> int:
    """All tokens of `sequences`."""
    return sum(len(sequence.ids) for sequence in sequences)
