"""One optimizer step: forward and backward over this process's share, one update, the same whatever the split.

The loss is the mean over all examples' weight (trained tokens; pairs) of the step, over all micro-batches and
processes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from tunewright.contracts.errors import TrainingDiverged
from tunewright.trainer.batches import Batch
from tunewright.trainer.feeding import StepPlan
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

    plan: StepPlan
    """What was computed, by this process and by all."""

    filler_tokens: int
    """What all processes computed besides, only to keep step with each other."""

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
    step, phases = session.progress.step, session.phases
    with phases.phase("data"):
        plan = session.feed.take(step)
    passes = passes_of(session, plan)
    loss, metrics = _accumulate(session, passes, plan.weight)
    _refuse_loss(step + 1, loss)
    learning_rate = float(session.trained.scheduler.get_last_lr()[0])
    with phases.phase("optimizer"):
        norm = _update(session, step + 1)
    filler_tokens = sum(one.batch.num_tokens for one in passes if not one.weight)
    return StepResult(loss, norm, learning_rate, plan, int(session.engine.sum_over_processes(filler_tokens)), metrics)


def passes_of(session: Session, plan: StepPlan) -> list[ForwardPass]:
    """This process's forward passes; at least one, and as many as the strategy needs every process to make."""
    own = [ForwardPass(batch, 1.0) for batch in plan.batches]
    missing = session.engine.passes_to_make(max(1, len(own))) - len(own)
    return own + [ForwardPass(plan.filler, 0.0)] * missing


def _accumulate(session: Session, passes: list[ForwardPass], weight: int) -> tuple[float, dict[str, float]]:
    """Add up the gradients of the step's loss, and give that loss and the objective's other metrics."""
    engine, phases = session.engine, session.phases
    # Averaging over processes divides by their number: it is multiplied back in.
    scale = engine.num_processes / weight
    total = torch.zeros((), dtype=torch.float64, device=engine.device)
    sums: dict[str, torch.Tensor] = {}
    for index, one in enumerate(passes):
        with engine.accumulation(session.model.wrapped, is_last=index == len(passes) - 1):
            with phases.phase("forward"):
                losses = session.objective.losses(session.model, one.batch.to(engine.device))
            with phases.phase("backward"):
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
