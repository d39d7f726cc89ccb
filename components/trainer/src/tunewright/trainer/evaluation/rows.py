"""Which rows a training is evaluated on: some of its dataset, held out, or a dataset of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewright.contracts.datasets import read_manifest
from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.experiment import EvaluationSpec
from tunewright.trainer.dataset import TokenDataset
from tunewright.trainer.job import TrainingJob

RowNumbers = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Split:
    """The rows of a dataset in two parts, each in ascending order."""

    trained: RowNumbers
    held_out: RowNumbers


@dataclass(frozen=True)
class EvaluationRows:
    """What a training is evaluated on."""

    dataset: TokenDataset
    rows: RowNumbers
    """Row numbers in `dataset`."""

    digest: str | None = None
    """Of the dataset, where it is not the one that is trained on."""

    @property
    def name(self) -> str:
        """Tells it from what else a run may be evaluated on: losses on two of them do not compare."""
        return self.digest or "held out"

    @property
    def own_dataset(self) -> TokenDataset | None:
        """The dataset, where it is not the one that is trained on."""
        return None if self.digest is None else self.dataset


def hold_out(num_rows: int, evaluation: EvaluationSpec, seed: int) -> Split:
    """Draw the held-out rows: a pure function of the seed. Raises InvalidExperiment where none is left to train on."""
    if evaluation.rows is not None:
        key, count = "evaluation.rows", evaluation.rows
    else:
        key, count = "evaluation.fraction", max(1, round((evaluation.fraction or 0.0) * num_rows))
    if count >= num_rows:
        message = f"holds out {count} of the dataset's {num_rows} rows: none is left to train on"
        raise InvalidExperiment.from_problems("the evaluation", [Problem(key, message, "hold out fewer rows")])
    # Three words: no epoch's order is drawn from the same (see DataOrder).
    order = np.random.Generator(np.random.PCG64([seed, 0, 1])).permutation(num_rows)
    return Split(np.sort(order[count:]), np.sort(order[:count]))


def split_rows(job: TrainingJob, dataset: TokenDataset) -> Split | None:
    """The split of the training's own rows. None where none of them is held out."""
    evaluation = job.experiment.evaluation
    if evaluation is None or evaluation.mix:
        return None
    return hold_out(len(dataset), evaluation, job.experiment.seed)


def open_evaluation_rows(job: TrainingJob, dataset: TokenDataset, split: Split | None) -> EvaluationRows | None:
    """What `job` is evaluated on, or None. `dataset` is what it trains on.

    Raises InvalidExperiment where a dataset of its own has other examples than that.
    """
    if split is not None:
        return EvaluationRows(dataset, split.held_out)
    if job.evaluation_dataset is None:
        return None
    manifest, size = read_manifest(job.evaluation_dataset), dataset.sequences_per_example
    if manifest.sequences_per_example != size:
        message = f"has {manifest.sequences_per_example} sequences to an example, the training's dataset has {size}"
        hint = "pairs and conversations are no measure of one another: take sources of the same kind"
        raise InvalidExperiment.from_problems(job.experiment.name, [Problem("evaluation.mix", message, hint)])
    own = TokenDataset(
        job.evaluation_dataset, manifest, packing=False, sequences_per_example=size, first_number=dataset.num_sequences
    )
    return EvaluationRows(own, np.arange(len(own)), manifest.digest)
