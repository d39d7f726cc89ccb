"""Supervised fine-tuning: cross-entropy of the trained tokens."""

from __future__ import annotations

from collections.abc import Sequence

from tunewright.trainer.batches import Batch, count_trained
from tunewright.trainer.computing.language_model import LanguageModel
from tunewright.trainer.dataset import TokenSequence
from tunewright.trainer.objectives.objective import Beginning, Losses


class NextToken:
    """The mean cross-entropy over all trained tokens of the optimizer step."""

    sequences_per_example = 1

    def begin(self, beginning: Beginning) -> None:
        """Nothing to do."""

    def weight_of(self, sequences: Sequence[TokenSequence]) -> int:
        """Trained tokens."""
        return count_trained(sequences)

    def losses(self, model: LanguageModel, batch: Batch) -> Losses:
        """The summed cross-entropy."""
        return Losses(model.summed_cross_entropy(batch))
