"""What a user takes away: the model, its tokenizer with the chat template it was trained with, and a card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.files import write_json_atomically, write_text_atomically
from tunewright.contracts.jobs import ModelReference
from tunewright.contracts.spec import Spec
from tunewright.trainer.api import ModelContext, TrainerVariant
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.model_loading import write_directory

ORIGIN_FILE = "tunewright.json"


class ModelOrigin(Spec):
    """`tunewright.json` in a model's directory: what it was made from, so that it can be merged and traced anywhere."""

    format_version: int = 1
    variant: str
    options: dict[str, Any]
    base: ModelReference
    experiment: str
    """The experiment's name."""

    experiment_digest: str
    dataset_digest: str
    commit: str | None
    run: str
    steps: int
    last_loss: float | None
    evaluation_loss: float | None = None
    """Where it is the best of its run by `evaluation.keep_best`: the loss on rows that were not trained on."""


@dataclass(frozen=True)
class FinalModel:
    """A trained model and what is written with it."""

    variant: TrainerVariant
    model: Any
    context: ModelContext
    origin: ModelOrigin
    chat_template: str | None
    weights: Mapping[str, torch.Tensor]
    """What the variant saves, whole."""


def make_origin(
    job: TrainingJob, steps: int, last_loss: float | None, evaluation_loss: float | None = None
) -> ModelOrigin:
    """The origin of the model that `job` has trained for `steps` steps."""
    assert job.job.dataset is not None
    launched = job.job.origin
    return ModelOrigin(
        variant=job.variant.name,
        options=job.options.to_document(),
        base=job.model,
        experiment=job.experiment.name,
        experiment_digest=job.experiment_digest,
        dataset_digest=job.job.dataset.digest,
        commit=launched.code.commit if launched else None,
        run=job.job.run,
        steps=steps,
        last_loss=last_loss,
        evaluation_loss=evaluation_loss,
    )


def chat_template_of(manifest: DatasetManifest) -> str | None:
    """The Jinja text the dataset was rendered with, or None where the manifest has none."""
    template = manifest.key.get("chat_template")
    return template.get("source") if isinstance(template, dict) else None


def write_model(directory: Path, final: FinalModel) -> None:
    """Write the model to `directory`, which appears as a whole or not at all."""
    write_directory(directory, lambda temporary: _write_parts(temporary, final))


def _write_parts(directory: Path, final: FinalModel) -> None:
    final.variant.save_final(final.model, directory, final.context, final.weights)
    _write_tokenizer(directory, final)
    write_json_atomically(directory / ORIGIN_FILE, final.origin.to_document())
    write_text_atomically(
        directory / "README.md", model_card(final.origin, (directory / "adapter_config.json").is_file())
    )


def _write_tokenizer(directory: Path, final: FinalModel) -> None:
    from transformers import AutoTokenizer

    reference = final.context.reference
    tokenizer = AutoTokenizer.from_pretrained(
        reference.name_or_path, revision=reference.revision, trust_remote_code=False
    )
    if final.chat_template is not None:
        tokenizer.chat_template = final.chat_template
    tokenizer.save_pretrained(directory)


def model_card(origin: ModelOrigin, has_adapters: bool) -> str:
    """The model's README: what it is, adapters or a whole model, and where it comes from."""
    revision = f" at revision `{origin.base.revision}`" if origin.base.revision else ""
    loss = "unknown" if origin.last_loss is None else f"{origin.last_loss:.4f}"
    evaluated = "" if origin.evaluation_loss is None else f"\n| Evaluation loss | {origin.evaluation_loss:.4f} |"
    return f"""---
library_name: {"peft" if has_adapters else "transformers"}
tags:
- tunewright
---

# {origin.experiment}

Trained by Tunewright, variant `{origin.variant}`, from `{origin.base.name_or_path}`{revision}.

| | |
| --- | --- |
| Experiment | `{origin.experiment}`, digest `{origin.experiment_digest}` |
| Run | `{origin.run}` |
| Commit | `{origin.commit or "unknown"}` |
| Dataset | `{origin.dataset_digest}` |
| Optimizer steps | {origin.steps} |
| Last training loss | {loss} |{evaluated}

`tunewright.json` beside this file has the same for machines; the run's `provenance.json` has everything.
"""
