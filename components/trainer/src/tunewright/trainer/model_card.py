"""The card that lies beside a model's weights and says where they come from."""

from __future__ import annotations

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.jobs import JobSpec
from tunewright.contracts.provenance import TrainingSummary
from tunewright.contracts.spec import digest_of


def model_card(job: JobSpec, manifest: DatasetManifest, summary: TrainingSummary) -> str:
    """Markdown with the facts of the run; `provenance.json` has them all."""
    assert job.experiment is not None and job.model is not None
    code = job.origin.code if job.origin else None
    facts = {
        "Run": job.run,
        "Experiment": f"`{job.experiment.name}`, digest `{digest_of(job.experiment.to_document())}`",
        "Commit": f"`{code.commit}`{' with a patch' if code.dirty else ''}" if code else "unknown",
        "Base model": f"`{job.experiment.model.name_or_path}`, weights: {job.experiment.model.weights}",
        "Variant": f"`{job.experiment.training.variant}`",
        "Dataset": f"`{manifest.digest}`: {manifest.rows:,} conversations, {manifest.trained_tokens:,} trained tokens",
        "Environment": f"`{job.environment.sha256}`" if job.environment else "unknown",
        "Steps": str(summary.steps),
        "Loss": f"{summary.first_loss} at the first step, {summary.last_loss} at the last",
    }
    lines = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"# {job.run}\n\nTrained with Tunewright.\n\n| | |\n| --- | --- |\n{lines}\n"
