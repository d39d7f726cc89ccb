"""An `export` job: the model of a run, or of a directory, as a model of its own in the run's `model/`."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tunewright.contracts.errors import InvalidExperiment, Problem, TunewrightError
from tunewright.contracts.experiment import ExportSpec
from tunewright.contracts.files import write_json_atomically
from tunewright.contracts.timestamps import utc_now
from tunewright.trainer import log
from tunewright.trainer.export import merge_model
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.job_record import begin_summary, record_success
from tunewright.trainer.model_loading import dtype_named, load_reference, save_whole_model, write_directory
from tunewright.trainer.observers import open_observers
from tunewright.trainer.summary import note_failure, write_summary

_BYTES = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def run_export(job: TrainingJob) -> None:
    """Write `model/` of the run and its record. The work of one process: other nodes of the job have nothing to do.

    Raises errors of the tree; what went wrong is in `training.json` too.
    """
    if os.environ.get("TUNEWRIGHT_NODE_RANK", "0") != "0":
        return
    try:
        _export(job)
    except Exception as error:
        note_failure(job, error.message if isinstance(error, TunewrightError) else f"{type(error).__name__}: {error}")
        raise


def _export(job: TrainingJob) -> None:
    summary, observers = begin_summary(job, 1, on_gpu=False), open_observers(job)
    published: dict[str, Any] = {}
    try:
        for observer in observers:
            observer.started(0)
        write_directory(job.run_dir.model, lambda temporary: write_export(job, temporary))
        for observer in observers:
            published |= observer.model_written()
        write_summary(job, summary.model_copy(update={"published": published, "ended_at": utc_now()}))
        record = record_success(job, summary.started_at)
        log.say(f"model: {job.run_dir.model}")
        for observer in observers:
            observer.finished(record)
        for complaint in job.host.notify("tunewright_run_finished", record=record):
            log.say(complaint)
    finally:
        for observer in observers:
            observer.closed()


def write_export(job: TrainingJob, directory: Path) -> None:
    """Write the job's model into `directory`, as `[export]` says."""
    settings, source = job.experiment.export, Path(job.model.name_or_path)
    has_adapters = (source / "adapter_config.json").is_file()
    log.say(f"from: {job.model.name_or_path}{', adapters' if has_adapters else ''}")
    if has_adapters and settings.merge:
        merge_model(source, directory)
    elif source.is_dir():
        shutil.copytree(source, directory, dirs_exist_ok=True)
    else:
        _download(job, directory)
    if has_adapters and not settings.merge:
        _refuse_rewriting(job, settings)
    elif settings.dtype is not None or _largest_file(directory) > size_in_bytes(settings.max_shard_size):
        rewrite_weights(directory, settings)


def _download(job: TrainingJob, directory: Path) -> None:
    """The model of a hub id, with its tokenizer."""
    from transformers import AutoTokenizer

    reference = job.model
    save_whole_model(load_reference(reference.name_or_path, reference.revision), directory)
    tokenizer = AutoTokenizer.from_pretrained(
        reference.name_or_path, revision=reference.revision, trust_remote_code=False
    )
    tokenizer.save_pretrained(directory)


def _refuse_rewriting(job: TrainingJob, settings: ExportSpec) -> None:
    if settings.dtype is not None:
        problem = Problem("export.dtype", "adapters stay as they are", "take it with `export.merge = true`")
        raise InvalidExperiment.from_problems(job.experiment.name, [problem])


def size_in_bytes(size: str) -> int:
    """`5GB` is 5 * 10^9."""
    return int(size[:-2]) * _BYTES[size[-2:]]


def _largest_file(directory: Path) -> int:
    return max((path.stat().st_size for path in directory.glob("*.safetensors")), default=0)


def rewrite_weights(directory: Path, settings: ExportSpec) -> None:
    """Write the model's weights again: in another precision, in files of another size. Whatever class the model is.

    Only floating-point tensors change their type. All of them are in memory at once.
    """
    from huggingface_hub import save_torch_state_dict
    from safetensors.torch import load_file

    tensors: dict[str, Any] = {}
    for path in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(path)
        path.unlink()
    (directory / "model.safetensors.index.json").unlink(missing_ok=True)
    if settings.dtype is not None:
        dtype = dtype_named(settings.dtype)
        tensors = {name: one.to(dtype) if one.is_floating_point() else one for name, one in tensors.items()}
        _note_dtype(directory / "config.json", settings.dtype)
    save_torch_state_dict(tensors, directory, max_shard_size=settings.max_shard_size, metadata={"format": "pt"})


def _note_dtype(config: Path, dtype: str) -> None:
    """What transformers loads the weights in."""
    document = json.loads(config.read_text())
    document.pop("torch_dtype", None)  # its older name
    write_json_atomically(config, {**document, "dtype": dtype})
