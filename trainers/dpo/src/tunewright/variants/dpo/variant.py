"""DPO: the model, or adapters on it, trained so that chosen answers become likelier than rejected ones."""

from __future__ import annotations

from tunewright.trainer.api import AdapterUse, ModelContext, Objective, WholeOrAdapters
from tunewright.variants.dpo.objective import PreferenceObjective
from tunewright.variants.dpo.options import DpoOptions


class DpoVariant(WholeOrAdapters):
    """Trains on preferences."""

    def __init__(self, options: DpoOptions) -> None:
        super().__init__(options.lora, AdapterUse(options_path="training.options.lora"))
        self.options = options

    def make_objective(self, context: ModelContext) -> Objective:
        """The loss that the options ask for."""
        return PreferenceObjective(self.options)
