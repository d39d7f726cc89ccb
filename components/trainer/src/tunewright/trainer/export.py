"""From a checkpoint, a run or a saved model to a directory that transformers or peft load."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.checkpoints import CHECKPOINT_FILE, verify_checkpoint
from tunewright.contracts.errors import InvalidExperiment, NotFound, UsageError
from tunewright.contracts.experiment_file import parse_spec
from tunewright.contracts.jobs import JobSpec
from tunewright.contracts.plugins import PluginHost, load_entry
from tunewright.contracts.rundir import RunDir
from tunewright.trainer.api import ModelContext, TrainerVariant
from tunewright.trainer.checkpoints import load_weights, whole_checkpoints
from tunewright.trainer.models import save_whole

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


@dataclass(frozen=True)
class ExportSource:
    """What is to be exported, and the run it belongs to."""

    run: RunDir
    checkpoint: Path | None
    """None: the run's finished model."""


def find_source(path: Path) -> ExportSource:
    """A checkpoint's directory, a run's `model/`, or a run's directory (its model, else its newest checkpoint)."""
    path = path.resolve()
    if (path / CHECKPOINT_FILE).is_file():
        return ExportSource(RunDir(path.parent.parent), path)
    if (path / "job.json").is_file():
        run = RunDir(path)
        whole = whole_checkpoints(run)
        if not run.model.is_dir() and not whole:
            raise NotFound(f"{path}: the run has neither a model nor a whole checkpoint")
        return ExportSource(run, None if run.model.is_dir() else whole[-1])
    if path.name == "model" and (path.parent / "job.json").is_file():
        return ExportSource(RunDir(path.parent), None)
    raise NotFound(f"{path}: is no checkpoint, no run and no run's model", "give checkpoints/step-..., a run, or its model/")


def export_model(source: ExportSource, directory: Path, merge: bool) -> None:
    """Write the model of `source` into the new `directory`, as a whole. With `merge`, adapters are added to their base.

    Raises UsageError where `directory` has something in it, CheckpointCorrupted for a checkpoint that differs.
    """
    if directory.exists() and any(directory.iterdir()):
        raise UsageError(f"--to {directory}: is not empty")
    job = JobSpec.model_validate_json(source.run.job.read_bytes())
    variant, context = _variant_of(job, source.run)

    def write(draft: Path) -> None:
        saved = source.run.model
        if source.checkpoint is not None:
            verify_checkpoint(source.checkpoint)
            model = variant.load(context)
            variant.load_trained_state(model, load_weights(source.checkpoint))
            saved = draft / ".saved" if merge else draft
            saved.mkdir(exist_ok=True)
            variant.save(model, saved, context)
        if merge:
            variant.merge(saved, draft, context)
        elif source.checkpoint is None:
            shutil.copytree(saved, draft, dirs_exist_ok=True)
        _copy_tokenizer(source.run, job, draft)
        shutil.rmtree(draft / ".saved", ignore_errors=True)

    save_whole(directory, write)


def _variant_of(job: JobSpec, run: RunDir) -> tuple[TrainerVariant, ModelContext]:
    spec = job.experiment
    if spec is None or job.model is None:
        raise InvalidExperiment(f"{run.job}: is no training job")
    host = PluginHost.discover()
    info = host.variants.get(spec.training.variant, "training.variant")
    options = parse_spec(info.options_type, dict(spec.training.options), str(run.job), "training.options")
    variant: TrainerVariant = load_entry(info.entry, host.variants.owner_of(info.name))()
    return variant, ModelContext(job.model, spec.model, spec.seed, options, run.path / "base_model")


def _copy_tokenizer(run: RunDir, job: JobSpec, directory: Path) -> None:
    """The tokenizer of the finished model, else that of the base."""
    assert job.model is not None
    for place in (run.model, Path(job.model.name_or_path)):
        if (place / "tokenizer.json").is_file():
            for name in TOKENIZER_FILES:
                if (place / name).is_file() and not (directory / name).exists():
                    shutil.copyfile(place / name, directory / name)
            return
