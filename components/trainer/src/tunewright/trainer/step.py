"""One optimizer step: forward and backward over this process's share, one update, the same whatever the split.

The loss is the mean over all trained tokens of the step, over all micro-batches and processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from tunewright.contracts.errors import TrainingDiverged
from tunewright.trainer.batches import Batch, count_tokens, count_trained, make_batch
from tunewright.trainer.dataset import TokenSequence, share_rows
from tunewright.trainer.loss import summed_loss
from tunewright.trainer.session import Session

_HINT = (
    "lower training.learning_rate, raise training.warmup_ratio, or set training.max_grad_norm; "
    "the last checkpoint is still good"
)


@dataclass(frozen=True)
class StepResult:
    """What an optimizer step says of itself."""

    loss: float
    """Mean over the step's trained tokens."""

    grad_norm: float
    """Before clipping."""

    learning_rate: float
    """What the update was made with."""

    num_tokens: int
    """Tokens of all processes."""


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
    loss = _accumulate(session, passes, count_trained(everything))
    norm = session.engine.clip(session.parameters, session.job.experiment.training.max_grad_norm)
    _refuse_divergence(session, step + 1, loss, norm)
    learning_rate = float(session.trained.scheduler.get_last_lr()[0])
    _update(session)
    return StepResult(loss, norm, learning_rate, count_tokens(everything))


def plan_passes(session: Session, rows: list[int], sequences: dict[int, list[TokenSequence]]) -> list[ForwardPass]:
    """This process's forward passes; at least one, so that every process takes part in every update."""
    training, engine = session.job.experiment.training, session.engine
    share = share_rows(rows, engine.num_processes, training.micro_batch_size)[engine.rank]
    passes: list[ForwardPass] = []
    for micro_batch in share:
        members = [sequence for row in micro_batch for sequence in sequences[row]]
        groups = [members] if session.sequences_apart else [[one] for one in members]
        passes += [ForwardPass(make_batch(group), 1.0) for group in groups if group]
    return passes or [ForwardPass(make_batch(sequences[rows[0]][:1]), 0.0)]


def _accumulate(session: Session, passes: list[ForwardPass], num_trained: int) -> float:
    """Add up the gradients of the step's loss, and give that loss."""
    engine = session.engine
    # Averaging over processes divides by their number: it is multiplied back in.
    scale = engine.num_processes / max(1, num_trained)
    total = torch.zeros((), dtype=torch.float64, device=engine.device)
    for index, one in enumerate(passes):
        with engine.accumulation(session.wrapped, is_last=index == len(passes) - 1):
            loss = summed_loss(session.wrapped, one.batch.to(engine.device), session.keeps_positions) * one.weight
            engine.backward(loss * scale)
        total += loss.detach()
    return engine.sum_over_processes(float(total)) / max(1, num_trained)


def _refuse_divergence(session: Session, step: int, loss: float, norm: float) -> None:
    if not math.isfinite(loss):
        raise TrainingDiverged(f"step {step}: the loss is {loss}; nothing of this step is kept", _HINT)
    if not math.isfinite(norm) and not session.engine.skips_overflows:
        raise TrainingDiverged(f"step {step}: the norm of the gradients is {norm}; nothing of this step is kept", _HINT)


def _update(session: Session) -> None:
    trained = session.trained
    trained.optimizer.step()
    if not session.engine.accelerator.optimizer_step_was_skipped:
        trained.scheduler.step()
    trained.optimizer.zero_grad(set_to_none=True)
