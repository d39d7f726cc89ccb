"""A reward model: the body of a language model with a score at the end of each conversation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tunewright.trainer.api import AdapterUse, ModelContext, Objective, WholeOrAdapters, merge_adapter
from tunewright.variants.reward_model.classifier import make_classifier, padding_token, padding_token_of
from tunewright.variants.reward_model.objective import BradleyTerry
from tunewright.variants.reward_model.options import RewardModelOptions

_ADAPTERS = AdapterUse(options_path="training.options.lora", task="SEQ_CLS", trained_modules=("score",))


class RewardModelVariant(WholeOrAdapters):
    """Trains a score."""

    def __init__(self, options: RewardModelOptions) -> None:
        super().__init__(options.lora, _ADAPTERS)
        self.options = options

    def load_model(self, context: ModelContext) -> Any:
        """The experiment's model, its output layer replaced by a score drawn from the seed."""
        language_model = super().load_model(context)
        torch.manual_seed(context.seed)
        return make_classifier(language_model, padding_token_of(context))

    def make_objective(self, context: ModelContext) -> Objective:
        """The Bradley-Terry loss."""
        return BradleyTerry(self.options, padding_token_of(context))

    def merge(self, source: Path, destination: Path) -> None:
        """Add the adapters to their base, with the score that was trained beside them."""
        if not self.has_adapters:
            super().merge(source, destination)  # which refuses

        def convert(base: Any) -> Any:
            return make_classifier(base, padding_token(str(source), None, base.config.pad_token_id))

        merge_adapter(source, destination, convert)
