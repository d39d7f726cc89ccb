"""What follows from evaluations, as pure functions: when there is one, which was best, whether training goes on."""

from __future__ import annotations

from dataclasses import dataclass

from tunewright.contracts.experiment import EvaluationSpec


@dataclass(frozen=True)
class Standing:
    """How the evaluations of a run have gone so far. It is in each checkpoint, with the rest of the progress."""

    best_evaluation_loss: float | None = None
    best_evaluation_step: int | None = None
    evaluations_since_best: int = 0


def is_due(evaluation: EvaluationSpec | None, step: int, steps_per_epoch: int, max_steps: int) -> bool:
    """Whether step `step`, just done, is followed by an evaluation: as the experiment says, and the last always."""
    if evaluation is None:
        return False
    return step % (evaluation.every_steps or steps_per_epoch) == 0 or step == max_steps


def judge(standing: Standing, step: int, loss: float) -> Standing:
    """The standing after the evaluation of step `step`."""
    if standing.best_evaluation_loss is None or loss < standing.best_evaluation_loss:
        return Standing(loss, step, 0)
    return Standing(standing.best_evaluation_loss, standing.best_evaluation_step, standing.evaluations_since_best + 1)


def stops_early(evaluation: EvaluationSpec | None, evaluations_since_best: int) -> bool:
    """Whether training is to end because its evaluations got no better."""
    if evaluation is None or evaluation.early_stop_patience is None:
        return False
    return evaluations_since_best >= evaluation.early_stop_patience


def early_stop_words(step: int, max_steps: int, standing: Standing) -> str:
    """Why training ended at `step`, for the log and the record."""
    times = standing.evaluations_since_best
    return (
        f"stopped after step {step} of {max_steps}: {times} evaluation{'' if times == 1 else 's'} in a row not better "
        f"than {standing.best_evaluation_loss:.4f}, after step {standing.best_evaluation_step}"
    )
