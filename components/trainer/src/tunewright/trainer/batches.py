"""From conversations to what a forward pass takes: one row without padding, positions restarting at each conversation.

Shapes: T tokens of all conversations of the pass together, N of them predicted and trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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

    lengths: tuple[int, ...]
    """Tokens of each of the conversations, in order; T together."""

    trained_counts: tuple[int, ...]
    """Trained tokens of each of them; N together."""

    sequences: tuple[int, ...]
    """The number of each in the dataset."""

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
        names = ("input_ids", "position_ids", "predicting", "labels")
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in names})

    def pinned(self) -> Batch:
        """The same in memory that a GPU reads by itself, while the host goes on."""
        names = ("input_ids", "position_ids", "predicting", "labels")
        return replace(self, **{name: getattr(self, name).pin_memory() for name in names})


def make_batch(sequences: Sequence[TokenSequence]) -> Batch:
    """`sequences` (at least one) laid end to end."""
    starts = np.cumsum([0, *(len(sequence.ids) for sequence in sequences)])
    positions = [np.arange(len(sequence.ids)) for sequence in sequences]
    predicted = [sequence.predicted() for sequence in sequences]
    targets = [start + one for start, one in zip(starts, predicted, strict=False)]
    ids, target = np.concatenate([sequence.ids for sequence in sequences]).astype(np.int64), np.concatenate(targets)
    return Batch(
        input_ids=torch.from_numpy(ids)[None],
        position_ids=torch.from_numpy(np.concatenate(positions))[None],
        predicting=torch.from_numpy(target - 1),
        labels=torch.from_numpy(ids[target]),
        lengths=tuple(len(sequence.ids) for sequence in sequences),
        trained_counts=tuple(map(len, predicted)),
        sequences=tuple(sequence.number for sequence in sequences),
    )


def count_trained(sequences: Sequence[TokenSequence]) -> int:
    """Trained tokens of `sequences`, known without a forward pass."""
    return sum(len(sequence.predicted()) for sequence in sequences)


def count_tokens(sequences: Sequence[TokenSequence]) -> int:
    """All tokens of `sequences`."""
    return sum(len(sequence.ids) for sequence in sequences)
