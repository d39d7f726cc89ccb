"""Which sequences go into which optimizer step, and how they are laid out for the model. Pure, and the same everywhere.

An item is a row of the cache, or with packing a packed row. A step takes `batch_size` items of a permutation drawn for
its epoch; the last step of an epoch takes what is left. The step's number alone says which items it takes: the data
position of a checkpoint is that number.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from numpy.typing import NDArray

from tunewright.contracts.experiment import ExperimentSpec
from tunewright.trainer.sequences import CachedSequences, Sequence


@dataclass(frozen=True)
class FlatBatch:
    """Sequences one behind the other in one row, without padding. T = tokens, P = tokens a loss is taken of."""

    input_ids_1T: torch.Tensor
    position_ids_1T: torch.Tensor
    """Starts at 0 with each sequence: by this the model keeps attention inside each."""

    predicting_P: torch.Tensor
    """Positions whose logits predict a trained token: one before it."""

    targets_P: torch.Tensor
    """The trained tokens."""

    def to(self, device: torch.device) -> FlatBatch:
        """The same on `device`."""
        return FlatBatch(
            self.input_ids_1T.to(device), self.position_ids_1T.to(device),
            self.predicting_P.to(device), self.targets_P.to(device),
        )  # fmt: skip


def flatten(sequences: SequenceOf[Sequence]) -> FlatBatch:
    """Lay `sequences` out in one row. A sequence's first token is predicted by nothing."""
    ids = np.concatenate([sequence.ids_L for sequence in sequences])
    positions = np.concatenate([np.arange(len(sequence.ids_L)) for sequence in sequences])
    is_target = np.concatenate([sequence.is_trained_L for sequence in sequences]) & (positions > 0)
    targets = np.flatnonzero(is_target)
    return FlatBatch(
        torch.from_numpy(ids)[None],
        torch.from_numpy(positions)[None],
        torch.from_numpy(targets - 1),
        torch.from_numpy(ids[targets]),
    )


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step: forward passes for each process, and what to divide the summed loss by."""

    epoch: int
    passes: tuple[tuple[tuple[int, ...], ...], ...]
    """For each round, for each process, the rows of its forward pass. Empty: the process only keeps the others company."""

    num_targets: int
    """Tokens a loss is taken of in the whole step, over all processes."""

    num_tokens: int


class StepPlanner:
    """Says of each step of the run what is in it."""

    def __init__(
        self,
        spec: ExperimentSpec,
        sequences: CachedSequences,
        packing: list[list[int]] | None,
        num_processes: int,
        rows_per_pass_limit: int | None = None,
    ) -> None:
        """`rows_per_pass_limit = 1` is for models that cannot keep packed sequences apart."""
        self._spec, self._sequences, self._num_processes = spec, sequences, num_processes
        self._items = packing if packing is not None else [[row] for row in range(sequences.num_rows)]
        self._one_row_per_pass = rows_per_pass_limit == 1
        self.steps_per_epoch = ceil(len(self._items) / spec.training.batch_size)
        epochs = spec.training.num_epochs
        self.num_steps = spec.training.max_steps or self.steps_per_epoch * (epochs or 1)
        self.num_items = len(self._items)
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def plan(self, step: int) -> StepPlan:
        """The plan of step `step`, counted from 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        size = self._spec.training.batch_size
        items = [self._items[item] for item in self._epoch_order(epoch)[index * size : (index + 1) * size]]
        rows = [row for item in items for row in item]
        passes = self._passes(items)
        rounds = [passes[start : start + self._num_processes] for start in range(0, len(passes), self._num_processes)]
        rounds[-1] += [()] * (self._num_processes - len(rounds[-1]))
        return StepPlan(
            epoch,
            tuple(tuple(one_round) for one_round in rounds),
            int(self._sequences.targets_per_row[rows].sum()),
            int(self._sequences.tokens_per_row[rows].sum()),
        )

    def _passes(self, items: list[list[int]]) -> list[tuple[int, ...]]:
        if self._one_row_per_pass:
            return [(row,) for item in items for row in item]
        size = self._spec.training.micro_batch_size
        groups = [items[start : start + size] for start in range(0, len(items), size)]
        return [tuple(row for item in group for row in item) for group in groups]

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            generator = np.random.default_rng([self._spec.seed, epoch])
            self._order = (epoch, generator.permutation(len(self._items)))
        return self._order[1]

    def tokens_before(self, step: int) -> int:
        """Tokens seen in all steps before `step`: what a resumed run goes on counting from."""
        return sum(self.plan(earlier).num_tokens for earlier in range(step))
