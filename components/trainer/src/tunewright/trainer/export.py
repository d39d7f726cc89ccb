"""From a checkpoint, a run or its model to a model directory of the user's own; adapters merged where asked for."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tunewright.contracts.checkpoints import CHECKPOINT_FILE, CheckpointManifest, verify_checkpoint
from tunewright.contracts.datasets import DatasetManifest, read_manifest
from tunewright.contracts.errors import InvalidExperiment, NotFound, TunewrightError, UsageError
from tunewright.contracts.files import write_text_atomically
from tunewright.contracts.plugins import PluginHost, load_entry, options_type_of
from tunewright.contracts.rundir import RunDir
from tunewright.trainer.adapters import merge_adapter
from tunewright.trainer.final_model import (
    ORIGIN_FILE,
    FinalModel,
    ModelOrigin,
    chat_template_of,
    make_origin,
    model_card,
    write_model,
)
from tunewright.trainer.job import TrainingJob, fetch_dataset, open_job
from tunewright.trainer.model_loading import write_directory


@dataclass(frozen=True)
class Source:
    """What an export starts from: a checkpoint, or a finished model."""

    path: Path
    is_checkpoint: bool


def find_source(path: Path) -> Source:
    """What `path` is: a checkpoint, a model's directory, or a run, whose model (or else newest checkpoint) is meant."""
    from tunewright.trainer.checkpoints.finding import whole_checkpoints

    if (path / CHECKPOINT_FILE).is_file():
        return Source(path, is_checkpoint=True)
    if (path / ORIGIN_FILE).is_file():
        return Source(path, is_checkpoint=False)
    run = RunDir(path)
    if (run.model / ORIGIN_FILE).is_file():
        return Source(run.model, is_checkpoint=False)
    checkpoints = whole_checkpoints(run.checkpoints)
    if checkpoints:
        return Source(checkpoints[-1], is_checkpoint=True)
    raise NotFound(f"{path}: is no checkpoint, no model of ours and no run that has either")


def read_origin(model: Path) -> ModelOrigin:
    """`tunewright.json` of the model in `model`."""
    try:
        return ModelOrigin.model_validate_json((model / ORIGIN_FILE).read_bytes())
    except ValidationError as error:
        raise InvalidExperiment(f"{model / ORIGIN_FILE}: {error.errors()[0]['msg']}") from None


def export_model(path: Path, destination: Path, merge: bool) -> None:
    """Write the model that `path` holds to `destination`, which must be new or empty and appears as a whole."""
    source = find_source(path)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise UsageError(f"--to {destination}: exists already and is not empty", "name a new directory")
    destination = destination.absolute()
    scratch = destination.with_name(f".{destination.name}.parts")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        model = _model_of_checkpoint(source.path, scratch) if source.is_checkpoint else source.path
        write = merge_model if merge else _copy
        write_directory(destination, lambda temporary: write(model, temporary))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _copy(model: Path, destination: Path) -> None:
    shutil.copytree(model, destination, dirs_exist_ok=True)


def merge_model(model: Path, destination: Path) -> None:
    """Write into `destination` the adapters in `model`, merged, with what lies beside them: tokenizer, card, origin.

    Those that somebody else has made, without an origin, are merged as peft merges them.
    """
    from tunewright.trainer.session import hush_libraries

    hush_libraries()
    origin = read_origin(model) if (model / ORIGIN_FILE).is_file() else None
    if origin is None:
        merge_adapter(model, destination)
    else:
        _merge_by_its_variant(origin, model, destination)
        write_text_atomically(destination / "README.md", model_card(origin, has_adapters=False))
    for path in sorted(model.iterdir()):
        if path.is_file() and not path.name.startswith("adapter_") and not (destination / path.name).exists():
            shutil.copy2(path, destination / path.name)


def _merge_by_its_variant(origin: ModelOrigin, model: Path, destination: Path) -> None:
    host = PluginHost.discover()
    info = host.variants.get(origin.variant)
    variant = load_entry(info.entry, host.variants.owner_of(info.name))(
        options_type_of(info).model_validate(origin.options)
    )
    variant.merge(model, destination)


def _model_of_checkpoint(checkpoint: Path, scratch: Path) -> Path:
    """Build the model of `checkpoint` as its run would have saved it. Raises CheckpointCorrupted, NotFound."""
    manifest = verify_checkpoint(checkpoint)
    path = checkpoint.absolute().parent.parent / "job.json"
    try:
        job = open_job(path)
    except NotFound:
        raise NotFound(f"{checkpoint}: its run's job.json is not beside `checkpoints/`: {path}") from None
    scratch.parent.mkdir(parents=True, exist_ok=True)
    write_model(scratch, _final_model(job, checkpoint, manifest))
    return scratch


def _final_model(job: TrainingJob, checkpoint: Path, manifest: CheckpointManifest) -> FinalModel:
    import torch

    from tunewright.trainer.api import ModelContext
    from tunewright.trainer.checkpoints.loading import trained_tensors
    from tunewright.trainer.session import build_model, load_variant

    dataset, device = _manifest_of_dataset(job), torch.device("cpu")
    context = ModelContext(
        job.experiment.model, job.model, job.experiment.seed, device, job.run_dir.path,
        vocabulary_size=dataset.vocabulary_size,
    )  # fmt: skip
    variant = load_variant(job)
    model = build_model(variant, context)
    for name, tensor in trained_tensors(checkpoint, manifest.num_processes).items():
        model.get_parameter(name).detach().copy_(tensor)
    weights = {n: t.detach() for n, t in model.state_dict(keep_vars=True).items() if variant.is_saved(n, t)}
    loss = manifest.position.get("progress", {}).get("last_loss")
    origin = make_origin(job, manifest.step, loss)
    return FinalModel(variant, model, context, origin, chat_template_of(dataset), weights)


def _manifest_of_dataset(job: TrainingJob) -> DatasetManifest:
    try:
        fetch_dataset(job)
        return read_manifest(job.dataset)
    except TunewrightError as error:
        raise NotFound(
            f"the dataset of the run is needed for its chat template: {error.message}", "prepare the dataset again"
        ) from None
