"""One evaluation: the objective's mean over all rows that are not trained on, every process taking its share of them.

It leaves nothing behind: no gradient, no draw from a random generator, the model in training mode as before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from tunewright.contracts.errors import TrainingDiverged
from tunewright.trainer.batches import count_tokens, make_batch
from tunewright.trainer.checkpoints.random_states import random_state, restore_random_state
from tunewright.trainer.dataset import TokenSequence
from tunewright.trainer.evaluation.rows import EvaluationRows
from tunewright.trainer.feeding import examples_of
from tunewright.trainer.session import Session

Pass = Sequence[TokenSequence]


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation says."""

    loss: float
    """Mean over all trained tokens of the rows, or over pairs: what the objective weighs by."""

    num_tokens: int
    """All tokens of the rows."""

    seconds: float

    metrics: dict[str, float] = field(default_factory=dict)
    """What else the objective says, as means like the loss."""

    def line(self, step: int) -> dict[str, Any]:
        """Its line in `metrics.jsonl`."""
        return {
            "step": step,
            "evaluation_loss": self.loss,
            **{f"evaluation_{name}": value for name, value in self.metrics.items()},
            "evaluation_tokens": self.num_tokens,
            "evaluation_seconds": round(self.seconds, 3),
        }


@dataclass
class Sums:
    """What one process adds up over its passes."""

    loss: torch.Tensor
    weight: float = 0.0
    num_tokens: float = 0.0
    metrics: dict[str, torch.Tensor] = field(default_factory=dict)


def evaluate(session: Session, evaluation: EvaluationRows) -> Evaluation:
    """The loss of the model as it is. Collective. Raises TrainingDiverged for a loss that is no number."""
    started, state, wrapped = time.monotonic(), random_state(), session.model.wrapped
    wrapped.eval()
    try:
        with torch.no_grad():
            sums = _run_passes(session, evaluation)
    finally:
        wrapped.train()
        restore_random_state(state)
    whole = session.engine.sum_over_processes
    weight = max(1.0, whole(sums.weight))
    loss = whole(float(sums.loss)) / weight
    if not math.isfinite(loss):
        raise TrainingDiverged(
            f"the evaluation after step {session.progress.step} gives a loss of {loss}",
            "lower training.learning_rate; the last checkpoint is still good",
        )
    metrics = {name: whole(float(value)) / weight for name, value in sums.metrics.items()}
    return Evaluation(loss, int(whole(sums.num_tokens)), time.monotonic() - started, metrics)


def _run_passes(session: Session, evaluation: EvaluationRows) -> Sums:
    passes, engine = plan_evaluation(session, evaluation), session.engine
    # One at least, so that every process knows the metrics.
    num_passes = engine.passes_to_make(max(1, len(passes)))
    filler = examples_of(session, evaluation.dataset.sequences_of(int(evaluation.rows[0])))[0]
    sums = Sums(torch.zeros((), dtype=torch.float64, device=engine.device))
    for one in passes:
        _add_pass(session, one, sums, 1)
    for _ in range(num_passes - len(passes)):
        _add_pass(session, filler, sums, 0)
    return sums


def _add_pass(session: Session, sequences: Pass, sums: Sums, share: int) -> None:
    losses = session.objective.losses(session.model, make_batch(sequences).to(session.engine.device))
    sums.loss += losses.total.double() * share
    sums.weight += session.objective.weight_of(sequences) * share
    sums.num_tokens += count_tokens(sequences) * share
    for name, value in losses.sums.items():
        sums.metrics[name] = sums.metrics.get(name, torch.zeros_like(sums.loss)) + value.double() * share


def plan_evaluation(session: Session, evaluation: EvaluationRows) -> list[Pass]:
    """This process's forward passes: as large as those of the training can be."""
    rows = evaluation.rows[session.engine.rank :: session.engine.num_processes].tolist()
    members = [evaluation.dataset.sequences_of(row) for row in rows]
    if not session.sequences_apart:
        return [example for sequences in members for example in examples_of(session, sequences)]
    experiment = session.job.experiment
    rows_a_pass = experiment.training.micro_batch_size
    if experiment.dataset.packing and evaluation.own_dataset is not None:
        # Rows of that dataset are single conversations: as many as fill the packed rows of a training's pass.
        return fill_passes(members, rows_a_pass * experiment.dataset.max_length_tokens)
    starts = range(0, len(members), rows_a_pass)
    return [[one for sequences in members[start : start + rows_a_pass] for one in sequences] for start in starts]


def fill_passes(members: Sequence[Pass], max_tokens: int) -> list[Pass]:
    """`members`, which stay whole, joined in their order into passes of at most `max_tokens`, or of one of them."""
    passes: list[list[TokenSequence]] = []
    filled = 0
    for sequences in members:
        size = count_tokens(sequences)
        if not passes or filled + size > max_tokens:
            passes.append([])
            filled = 0
        passes[-1].extend(sequences)
        filled += size
    return list(passes)
