"""What objectives over preference pairs share. Sequences of a pair are beside each other: chosen, then rejected.

Shapes: S sequences of a forward pass, P = S / 2 pairs, N trained tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunewright.trainer.batches import Batch
from tunewright.trainer.dataset import TokenSequence
from tunewright.trainer.objectives.objective import Beginning


class PairObjective:
    """An example is a pair, and the loss is the mean over pairs. Subclasses write `losses`."""

    sequences_per_example = 2

    def begin(self, beginning: Beginning) -> None:
        """Nothing to do."""

    def weight_of(self, sequences: Sequence[TokenSequence]) -> int:
        """Pairs."""
        return len(sequences) // 2


def sums_by_sequence(values_N: torch.Tensor, batch: Batch) -> torch.Tensor:
    """What each sequence's trained tokens have together, (S,), float64: long answers keep their last digits."""
    return torch.stack([part.sum() for part in torch.split(values_N.double(), list(batch.trained_counts))])


def split_pairs(values_S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The values of the chosen sequences and of the rejected ones, (P,) each."""
    return values_S[0::2], values_S[1::2]


def reward_sums(chosen_P: torch.Tensor, rejected_P: torch.Tensor) -> dict[str, torch.Tensor]:
    """What is logged of rewards, summed over pairs: both rewards, their distance, and how many are ranked right."""
    chosen_P, rejected_P = chosen_P.detach(), rejected_P.detach()
    return {
        "rewards_chosen": chosen_P.sum(),
        "rewards_rejected": rejected_P.sum(),
        "margin": (chosen_P - rejected_P).sum(),
        "accuracy": (chosen_P > rejected_P).sum(),
    }
