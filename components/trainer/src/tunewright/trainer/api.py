"""What a training variant is, and what it may use: the only module of the trainer that variants import.

A variant plugin registers a `tunewright.contracts.variants.VariantInfo` whose `entry` names a class. In the job,
that class is called with the parsed options and gives a `TrainerVariant`. The trainer then calls, in every process:

    variant = MyVariant(options)
    model = variant.load_model(context)
    model = variant.prepare_model(model, context)
    objective = variant.make_objective(context)     # the loss, and what one example is
    ...                                             # the trainer trains every parameter that requires a gradient
    variant.save_final(model, directory, context, weights)   # at the end, on the main process

and `trainer export --merge` calls `variant.merge(source, destination)`. The trainer owns data, optimizer, strategies,
checkpoints, random state and records; a variant owns what the model is and what its loss is. Most variants subclass
`VariantDefaults` and write only what differs. A suite to inherit is in the repository:
`tests/conformance/variant_suite.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from tunewright.contracts.adapters import AdapterOptions
from tunewright.contracts.errors import UsageError
from tunewright.trainer.adapters import PLAIN_USE, AdapterUse, add_adapters, merge_adapter, save_adapter
from tunewright.trainer.batches import Batch, make_batch
from tunewright.trainer.computing.language_model import LanguageModel
from tunewright.trainer.dataset import TokenDataset, TokenSequence
from tunewright.trainer.model_loading import (
    ModelContext,
    dtype_named,
    frozen_base,
    load_base_model,
    load_config,
    load_reference,
    load_weights,
    save_whole_model,
)
from tunewright.trainer.objectives.next_token import NextToken
from tunewright.trainer.objectives.objective import Beginning, Losses, Objective, Say
from tunewright.trainer.objectives.pairs import PairObjective, reward_sums, split_pairs, sums_by_sequence

__all__ = [
    "AdapterDefaults",
    "AdapterUse",
    "Batch",
    "Beginning",
    "LanguageModel",
    "Losses",
    "ModelContext",
    "NextToken",
    "Objective",
    "PairObjective",
    "Say",
    "TokenDataset",
    "TokenSequence",
    "TrainerVariant",
    "VariantDefaults",
    "WholeOrAdapters",
    "dtype_named",
    "frozen_base",
    "load_base_model",
    "load_config",
    "load_reference",
    "load_weights",
    "make_batch",
    "merge_adapter",
    "reward_sums",
    "save_whole_model",
    "split_pairs",
    "sums_by_sequence",
]


@runtime_checkable
class TrainerVariant(Protocol):
    """One way to train. Made by calling the registered class with the parsed options."""

    def load_model(self, context: ModelContext) -> Any:
        """The model to start from, on `context.device`: a transformers `PreTrainedModel`.

        `load_base_model(context)` does what most need. Deterministic: whatever is drawn comes from `context.seed`.
        """

    def prepare_model(self, model: Any, context: ModelContext) -> Any:
        """The model that is trained, made from what `load_model` gave: adapters added, `requires_grad` set.

        It is called like a causal language model of transformers. Called right after `torch.manual_seed(context.seed)`.
        Trained parameters are float32. Raises InvalidExperiment for options that do not fit the model.
        """

    def make_objective(self, context: ModelContext) -> Objective:
        """The loss, and how many sequences make an example."""

    def is_saved(self, name: str, parameter: torch.Tensor) -> bool:
        """Whether `save_final` needs this tensor of the model's state: gathering what it does not need costs time."""

    def weight_bytes(self, name: str, parameter: torch.Tensor) -> int:
        """How much memory this parameter takes while it is trained on: what `trainer estimate` counts."""

    def save_final(
        self, model: Any, directory: Path, context: ModelContext, weights: Mapping[str, torch.Tensor]
    ) -> None:
        """Write into `directory` what a user loads with transformers or peft: safetensors; equal weights, equal bytes.

        `weights` holds the tensors that `is_saved` asked for, whole: the model's own may be in pieces. The trainer adds
        tokenizer, chat template and model card, and renames the directory into place.
        """

    def merge(self, source: Path, destination: Path) -> None:
        """Write into `destination` the full model that the final model in `source` stands for.

        `source` is what `save_final` wrote. Raises UsageError where there is nothing to merge.
        """


class VariantDefaults:
    """What most variants do. Subclass it and change what differs."""

    def load_model(self, context: ModelContext) -> Any:
        """The experiment's model, pretrained or random, float32."""
        return load_base_model(context)

    def prepare_model(self, model: Any, context: ModelContext) -> Any:
        """The model itself, every parameter trained."""
        model.requires_grad_(True)
        return model

    def make_objective(self, context: ModelContext) -> Objective:
        """Supervised fine-tuning: cross-entropy of the trained tokens."""
        return NextToken()

    def is_saved(self, name: str, parameter: torch.Tensor) -> bool:
        """Everything."""
        return True

    def weight_bytes(self, name: str, parameter: torch.Tensor) -> int:
        """As it is."""
        return parameter.numel() * parameter.element_size()

    def save_final(
        self, model: Any, directory: Path, context: ModelContext, weights: Mapping[str, torch.Tensor]
    ) -> None:
        """Write the whole model."""
        save_whole_model(model, directory, weights)

    def merge(self, source: Path, destination: Path) -> None:
        """Refuse: without adapters there is nothing to merge."""
        raise UsageError("--merge: this model has no adapters; it is whole already", "leave --merge out")


class AdapterDefaults(VariantDefaults):
    """What variants do that train LoRA adapters on frozen weights. `options` are the adapters'."""

    def __init__(self, options: AdapterOptions, use: AdapterUse = PLAIN_USE) -> None:
        self.options, self.use = options, use

    def load_model(self, context: ModelContext) -> Any:
        """The base in float32. Random weights are kept in the run's `base_model/`: the adapters need them later."""
        return load_base_model(frozen_base(context))

    def prepare_model(self, model: Any, context: ModelContext) -> Any:
        """`model` frozen, with adapters that are trained."""
        return add_adapters(model, self.options, frozen_base(context).reference, self.use)

    def is_saved(self, name: str, parameter: torch.Tensor) -> bool:
        """The adapters: what is trained."""
        return parameter.requires_grad

    def save_final(
        self, model: Any, directory: Path, context: ModelContext, weights: Mapping[str, torch.Tensor]
    ) -> None:
        """Write the adapters alone, in peft's format."""
        save_adapter(model, directory, weights)

    def merge(self, source: Path, destination: Path) -> None:
        """Add the adapters to their base in full precision."""
        merge_adapter(source, destination)


class WholeOrAdapters(VariantDefaults):
    """What variants do that train every weight, or LoRA adapters where the options ask for them."""

    def __init__(self, adapters: AdapterOptions | None, use: AdapterUse = PLAIN_USE) -> None:
        self.has_adapters = adapters is not None
        self._way = VariantDefaults() if adapters is None else AdapterDefaults(adapters, use)

    def load_model(self, context: ModelContext) -> Any:
        """The experiment's model, float32."""
        return self._way.load_model(context)

    def prepare_model(self, model: Any, context: ModelContext) -> Any:
        """`model` with what is trained requiring a gradient."""
        return self._way.prepare_model(model, context)

    def is_saved(self, name: str, parameter: torch.Tensor) -> bool:
        """Everything, or the adapters."""
        return self._way.is_saved(name, parameter)

    def weight_bytes(self, name: str, parameter: torch.Tensor) -> int:
        """As it is, in both ways."""
        return self._way.weight_bytes(name, parameter)

    def save_final(
        self, model: Any, directory: Path, context: ModelContext, weights: Mapping[str, torch.Tensor]
    ) -> None:
        """Write the whole model, or the adapters in peft's format."""
        self._way.save_final(model, directory, context, weights)

    def merge(self, source: Path, destination: Path) -> None:
        """Add the adapters to their base, where there are any."""
        self._way.merge(source, destination)
