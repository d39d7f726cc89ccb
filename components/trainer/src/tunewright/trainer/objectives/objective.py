"""What a training makes small: the contract between the trainer's loop and a loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from tunewright.trainer.batches import Batch
from tunewright.trainer.computing.language_model import LanguageModel
from tunewright.trainer.dataset import TokenDataset, TokenSequence


class Say(Protocol):
    """Writes a line into the job's log, where this is the main process."""

    def __call__(self, line: str) -> None:
        """Called by any process."""


class Gather(Protocol):
    """Gives every process's value, in the order of ranks."""

    def __call__(self, value: object) -> list[Any]:
        """Called by all processes."""


@dataclass(frozen=True)
class Beginning:
    """What an objective may use before the first step: the model as it starts, and all data."""

    model: LanguageModel
    dataset: TokenDataset
    device: torch.device
    rank: int
    num_processes: int
    gather: Gather
    dataset_digest: str
    model_identity: dict[str, Any]
    """What decides the numbers that the starting model gives: origin, digest, precision, variant and options."""

    cache_root: Path
    """Where prepared datasets live on this node: what is computed once for dataset and model is kept beside them."""

    run_dir: Path
    """Of the run, where it is kept if nothing can be written there."""

    sequences_apart: bool
    """Whether several sequences can share a forward pass."""

    say: Say

    evaluation_dataset: TokenDataset | None = None
    """The dataset of its own that the run is evaluated on. Its sequences are counted on from those of `dataset`."""

    evaluation_dataset_digest: str | None = None


@dataclass(frozen=True)
class Losses:
    """What one forward pass gives."""

    total: torch.Tensor
    """The sum of the losses: a scalar, float32. The trainer divides by the weight of the whole optimizer step."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    """Metrics to log, summed like `total`: `{"accuracy": pairs ranked right}`."""


class Objective(Protocol):
    """A loss over the examples of the dataset."""

    sequences_per_example: int
    """Sequences of the dataset that belong together: 1, or 2 for preference pairs (chosen, then rejected)."""

    def begin(self, beginning: Beginning) -> None:
        """Called once, in every process, before the first step, also where a run goes on from a checkpoint.

        The model is then as it starts, with no step done.
        """

    def weight_of(self, sequences: Sequence[TokenSequence]) -> int:
        """What the loss of these examples is a mean over: their trained tokens, or how many pairs they are."""

    def losses(self, model: LanguageModel, batch: Batch) -> Losses:
        """The summed loss of one forward pass, with its graph. Examples are never divided between passes."""
