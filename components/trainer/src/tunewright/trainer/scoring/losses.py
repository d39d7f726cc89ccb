"""The loss of single rows: what training adds up, kept apart by row.

Shapes: S rows of a batch, N predicted tokens of them together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tunewright.trainer.batches import make_batch
from tunewright.trainer.dataset import TokenSequence
from tunewright.trainer.objectives.pairs import sums_by_sequence
from tunewright.trainer.scoring.model import ScoredModel


@torch.no_grad()
def loss_sums(scored: ScoredModel, sequences: Sequence[TokenSequence]) -> list[float]:
    """The summed cross-entropy of the trained tokens of each row, (S,), by logits in float32."""
    passes = [sequences] if scored.sequences_apart else [[one] for one in sequences]
    sums: list[float] = []
    for one in passes:
        batch = make_batch(one).to(scored.device)
        losses_N = -scored.language.token_log_probabilities(batch)
        sums += sums_by_sequence(losses_N, batch).tolist()
    return sums
