"""From the rows' results to what is said of the model: `evaluation.json`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tunewright.contracts.errors import TrainingDiverged
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.scoring.rows import RowResult

FORMAT_VERSION = 1


def refuse_no_number(results: Sequence[RowResult]) -> None:
    """Raise TrainingDiverged where the loss of a row is no number: the mean would be none either."""
    for one in results:
        if one.loss_sum is not None and not math.isfinite(one.loss_sum):
            raise TrainingDiverged(f"the model gives row {one.row} a loss of {one.loss_sum}", "its weights are broken")


def metrics_of(results: Sequence[RowResult]) -> dict[str, Any]:
    """What was measured, over all rows. `results` in the order of rows: equal rows, equal bits.

    `loss` is the mean over all trained tokens of all rows; `perplexity` its exponential, None where that is too large
    for a number. `exact_match` is the share of rows.
    """
    metrics: dict[str, Any] = {}
    if results and results[0].loss_sum is not None:
        trained = max(1, sum(one.trained_tokens for one in results))
        loss = math.fsum(one.loss_sum or 0.0 for one in results) / trained
        metrics |= {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else None}
    if results and results[0].exact_match is not None:
        metrics["exact_match"] = sum(bool(one.exact_match) for one in results) / len(results)
    return metrics


def counts_of(results: Sequence[RowResult]) -> dict[str, int]:
    """What the metrics are of."""
    counts = {
        "rows": len(results),
        "tokens": sum(one.tokens for one in results),
        "trained_tokens": sum(one.trained_tokens for one in results),
    }
    if not results or results[0].exact_match is None:
        return counts
    return counts | {
        "exact_matches": sum(bool(one.exact_match) for one in results),
        "generated_tokens": sum(one.generated_tokens or 0 for one in results),
        "without_answer": sum(one.answer is None for one in results),
        "references_without_answer": sum(one.reference_answer is None for one in results),
        "references_cut": sum(not one.is_whole for one in results),
    }


def evaluation_document(job: TrainingJob, results: Sequence[RowResult], harness: dict[str, Any]) -> dict[str, Any]:
    """What `evaluation.json` holds. No times: equal results, equal bytes."""
    assert job.job.dataset is not None
    metrics = metrics_of(results)
    return {
        "schema": FORMAT_VERSION,
        "model": job.model.to_document(),
        "dataset": job.job.dataset.digest,
        "metrics": {**metrics, "harness": harness} if harness else metrics,
        "counts": counts_of(results),
        "settings": job.experiment.evaluate.to_document(),
    }
