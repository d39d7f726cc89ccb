"""One optimizer step: forward and backward over this process's share, one update, the same whatever the split.

The loss is the mean over all examples' weight (trained tokens; pairs) of the step, over all micro-batches and
processes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from tunewright.contracts.errors import TrainingDiverged
from tunewright.trainer.batches import Batch, count_tokens, make_batch
from tunewright.trainer.dataset import TokenSequence, share_rows
from tunewright.trainer.session import Session

_HINT = (
    "lower training.learning_rate, raise training.warmup_ratio, or set training.max_grad_norm; "
    "the last checkpoint is still good"
)


@dataclass(frozen=True)
class StepResult:
    """What an optimizer step says of itself."""

    loss: float
    """Mean over the step's trained tokens, or pairs."""

    grad_norm: float
    """Before clipping."""

    learning_rate: float
    """What the update was made with."""

    num_tokens: int
    """Tokens of all processes."""

    metrics: dict[str, float] = field(default_factory=dict)
    """What else the objective says, as means like the loss."""


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass of one process."""

    batch: Batch
    weight: float
    """1, or 0 for a pass that only keeps step with the other processes."""


def run_step(session: Session) -> StepResult:
    """Train on the next step's rows. Raises TrainingDiverged before anything is changed, for a number that is none."""
    step = session.progress.step
    rows = session.order.rows_of(step)
    sequences = {row: session.dataset.sequences_of(row) for row in rows}
    everything = [sequence for row in rows for sequence in sequences[row]]
    passes = plan_passes(session, rows, sequences)
    weight = max(1, session.objective.weight_of(everything))
    loss, metrics = _accumulate(session, passes, weight)
    _refuse_loss(step + 1, loss)
    learning_rate = float(session.trained.scheduler.get_last_lr()[0])
    norm = _update(session, step + 1)
    return StepResult(loss, norm, learning_rate, count_tokens(everything), metrics)


def plan_passes(session: Session, rows: list[int], sequences: dict[int, list[TokenSequence]]) -> list[ForwardPass]:
    """This process's forward passes; at least one, so that every process takes part in every update."""
    training, engine = session.job.experiment.training, session.engine
    share = share_rows(rows, engine.num_processes, training.micro_batch_size)[engine.rank]
    passes: list[ForwardPass] = []
    for micro_batch in share:
        members = [sequence for row in micro_batch for sequence in sequences[row]]
        groups = [members] if session.sequences_apart else examples_of(session, members)
        passes += [ForwardPass(make_batch(group), 1.0) for group in groups if group]
    return passes or [ForwardPass(make_batch(examples_of(session, sequences[rows[0]])[0]), 0.0)]


def examples_of(session: Session, sequences: Sequence[TokenSequence]) -> list[Sequence[TokenSequence]]:
    """`sequences` by examples: what a forward pass must have at least."""
    size = session.objective.sequences_per_example
    return [sequences[start : start + size] for start in range(0, len(sequences), size)]


def _accumulate(session: Session, passes: list[ForwardPass], weight: int) -> tuple[float, dict[str, float]]:
    """Add up the gradients of the step's loss, and give that loss and the objective's other metrics."""
    engine = session.engine
    # Averaging over processes divides by their number: it is multiplied back in.
    scale = engine.num_processes / weight
    total = torch.zeros((), dtype=torch.float64, device=engine.device)
    sums: dict[str, torch.Tensor] = {}
    for index, one in enumerate(passes):
        with engine.accumulation(session.model.wrapped, is_last=index == len(passes) - 1):
            losses = session.objective.losses(session.model, one.batch.to(engine.device))
            engine.backward(losses.total * (one.weight * scale))
        total += losses.total.detach() * one.weight
        for name, value in losses.sums.items():
            sums[name] = sums.get(name, 0) + value.detach().double() * one.weight
    means = {name: engine.sum_over_processes(float(value)) / weight for name, value in sums.items()}
    return engine.sum_over_processes(float(total)) / weight, means


def _refuse_loss(step: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise TrainingDiverged(f"step {step}: the loss is {loss}; nothing of this step is kept", _HINT)


def _update(session: Session, step: int) -> float:
    """Clip, update, and move the schedule on. Gives the gradients' norm before clipping."""

    def refuse(norm: float) -> None:
        if not math.isfinite(norm) and not session.engine.skips_overflows:
            message = f"step {step}: the norm of the gradients is {norm}; nothing of this step is kept"
            raise TrainingDiverged(message, _HINT)

    applied = session.engine.apply(session.parameters, session.job.experiment.training.max_grad_norm, refuse)
    if not applied.was_skipped:
        session.trained.scheduler.step()
    return applied.norm
