"""Checkpoints: written beside their place, renamed into it as a whole, their record last; read back exactly."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunewright.contracts.checkpoints import CHECKPOINT_FILE, CheckpointManifest, CheckpointRef
from tunewright.contracts.datasets import FileRecord
from tunewright.contracts.files import sha256_of_file, sync_directory, write_json_atomically
from tunewright.trainer.api import TrainerVariant
from tunewright.trainer.engine import Engine
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.model_loading import sync_tree
from tunewright.trainer.randomness import random_state, restore_random_state
from tunewright.trainer.resume import FoundCheckpoint, whole_checkpoints

TRAINED_FILE = "trained.safetensors"
_OPTIMIZER_FILE, _SCHEDULER_FILE, _RANDOM_FILE, _SCALER_FILE = "optimizer.pt", "scheduler.pt", "random.pt", "scaler.pt"


@dataclass(frozen=True)
class Trained:
    """Everything that training changes, apart from the position in the data."""

    variant: TrainerVariant
    model: Any
    """As the variant made it, not wrapped."""

    optimizer: Any
    scheduler: Any


def checkpoint_name(step: int) -> str:
    """`step-000020`."""
    return f"step-{step:06}"


def save_checkpoint(
    job: TrainingJob, engine: Engine, trained: Trained, step: int, position: dict[str, Any]
) -> CheckpointRef | None:
    """Write the checkpoint of `step`. Called by every process; gives the checkpoint on the main one."""
    states = engine.gather_objects(random_state())
    reference = None
    if engine.is_main:
        directory = job.run_dir.checkpoints / checkpoint_name(step)
        temporary = directory.with_name(f".{directory.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write_files(temporary, engine, trained, states)
        _write_record(temporary, _record(job, step, position, temporary))
        reference = _put_in_place(temporary, directory, step)
    engine.barrier()
    return reference


def _write_files(directory: Path, engine: Engine, trained: Trained, states: list[Any]) -> None:
    from safetensors.torch import save_file

    tensors = trained.variant.trained_state(trained.model)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / TRAINED_FILE)
    torch.save(trained.optimizer.state_dict(), directory / _OPTIMIZER_FILE)
    torch.save(trained.scheduler.state_dict(), directory / _SCHEDULER_FILE)
    torch.save(states, directory / _RANDOM_FILE)
    if engine.accelerator.scaler is not None:
        torch.save(engine.accelerator.scaler.state_dict(), directory / _SCALER_FILE)
    sync_tree(directory)


def _record(job: TrainingJob, step: int, position: dict[str, Any], directory: Path) -> CheckpointManifest:
    assert job.job.dataset is not None
    return CheckpointManifest(
        step=step,
        variant=job.variant.name,
        experiment_digest=job.experiment_digest,
        dataset_digest=job.job.dataset.digest,
        num_processes=job.num_processes,
        position=position,
        files=tuple(FileRecord.of(directory, path.name) for path in sorted(directory.iterdir())),
    )


def _write_record(directory: Path, record: CheckpointManifest) -> None:
    write_json_atomically(directory / CHECKPOINT_FILE, record.to_document())


def _put_in_place(temporary: Path, directory: Path, step: int) -> CheckpointRef:
    shutil.rmtree(directory, ignore_errors=True)  # a torn one, of an attempt that was killed
    temporary.rename(directory)
    sync_directory(directory.parent)
    return CheckpointRef(path=str(directory), step=step, sha256=sha256_of_file(directory / CHECKPOINT_FILE))


def remove_old_checkpoints(directory: Path, keep_last: int) -> None:
    """Remove all but the newest `keep_last`. The record goes first, so that a crash leaves nothing that looks whole."""
    for path in whole_checkpoints(directory)[:-keep_last]:
        (path / CHECKPOINT_FILE).unlink()
        sync_directory(path)
        shutil.rmtree(path)


def remove_torn_checkpoints(directory: Path) -> None:
    """Remove what killed attempts left half-written or half-removed."""
    whole = set(whole_checkpoints(directory))
    for path in (*directory.glob(".step-*.tmp"), *directory.glob("step-*")):
        if path not in whole:
            shutil.rmtree(path)


def load_checkpoint(found: FoundCheckpoint, engine: Engine, trained: Trained) -> None:
    """Put everything back as it was. The files were compared with their digests before."""
    from safetensors.torch import load_file

    state = load_file(found.path / TRAINED_FILE, device=str(engine.device))
    trained.variant.load_trained_state(trained.model, state)
    trained.optimizer.load_state_dict(_load(found.path / _OPTIMIZER_FILE))
    trained.scheduler.load_state_dict(_load(found.path / _SCHEDULER_FILE))
    if engine.accelerator.scaler is not None:
        engine.accelerator.scaler.load_state_dict(_load(found.path / _SCALER_FILE))
    restore_random_state(_load(found.path / _RANDOM_FILE)[engine.rank])


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)
