"""Checkpoints: every process writes its share beside their place, the record comes last, then all is put in place.

They are the same whatever the strategy: whole tensors by the parameter's name, each in one process's files. So a run
can go on in another number of processes.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunewright.contracts.checkpoints import CHECKPOINT_FILE, CheckpointManifest, CheckpointRef
from tunewright.contracts.datasets import FileRecord
from tunewright.contracts.files import sha256_of_file, sync_directory, write_json_atomically
from tunewright.trainer.api import TrainerVariant
from tunewright.trainer.checkpoints.finding import whole_checkpoints
from tunewright.trainer.checkpoints.random_states import random_state
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.model_loading import sync_tree
from tunewright.trainer.strategies.engine import Engine

COMMON_FILE = "common.pt"
"""Schedule, random states of all processes, loss scale."""


@dataclass(frozen=True)
class Trained:
    """Everything that training changes, apart from the position in the data."""

    variant: TrainerVariant
    model: Any
    """As the variant made it, not wrapped."""

    scheduler: Any


@dataclass(frozen=True)
class Share:
    """What one process writes of a checkpoint."""

    tensors: dict[str, torch.Tensor]
    """Trained parameters by name, whole."""

    optimizer: dict[str, dict[str, Any]]
    """What the optimizer keeps of each, whole, by the parameter's name."""


def tensors_file(rank: int, num_processes: int) -> str:
    """`trained-00000-of-00002.safetensors`: the parameters that process `rank` wrote."""
    return f"trained-{rank:05}-of-{num_processes:05}.safetensors"


def optimizer_file(rank: int, num_processes: int) -> str:
    """`optimizer-00000-of-00002.pt`: what the optimizer keeps of those."""
    return f"optimizer-{rank:05}-of-{num_processes:05}.pt"


def checkpoint_name(step: int) -> str:
    """`step-000020`."""
    return f"step-{step:06}"


def trained_by_name(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Every parameter that requires a gradient. One that is used in two places is there once."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def owners_of(sizes: Sequence[int], num_processes: int) -> list[int]:
    """The process that writes each of the tensors with these sizes: the one with least to write so far."""
    written = [0] * num_processes
    owners = []
    for size in sizes:
        owner = min(range(num_processes), key=lambda process: (written[process], process))
        written[owner] += size
        owners.append(owner)
    return owners


def take_share(engine: Engine, trained: Trained) -> Share:
    """This process's share of the trained state. Collective. Nothing is copied that the process has whole anyway."""
    parameters = trained_by_name(trained.model)
    sizes = [parameter.numel() for parameter in parameters.values()]
    share = Share({}, {})
    for (name, parameter), owner in zip(parameters.items(), owners_of(sizes, engine.num_processes), strict=True):
        tensor, state = engine.whole(parameter), engine.optimizer_state(parameter)
        if owner == engine.rank:
            share.tensors[name], share.optimizer[name] = tensor, state
    return share


def save_checkpoint(
    job: TrainingJob, engine: Engine, trained: Trained, step: int, position: dict[str, Any]
) -> CheckpointRef | None:
    """Write the checkpoint of `step`. Collective; gives the checkpoint on the main process."""
    directory = job.run_dir.checkpoints / checkpoint_name(step)
    temporary = directory.with_name(f".{directory.name}.tmp")
    if engine.is_main:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    share, states = take_share(engine, trained), engine.gather_objects(random_state())
    engine.barrier()  # the directory is there
    _write_share(temporary, engine, share)
    if engine.is_main:
        common = {"scheduler": trained.scheduler.state_dict(), "random": states, "engine": engine.extra_state()}
        torch.save(common, temporary / COMMON_FILE)
    sync_tree(temporary)
    engine.barrier()  # every share is on disk
    reference = None
    if engine.is_main:
        record = _record(job, engine, step, position, temporary)
        write_json_atomically(temporary / CHECKPOINT_FILE, record.to_document())
        reference = _put_in_place(temporary, directory, step)
    engine.barrier()
    return reference


def _write_share(directory: Path, engine: Engine, share: Share) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in share.tensors.items()}
    save_file(tensors, directory / tensors_file(engine.rank, engine.num_processes))
    torch.save(share.optimizer, directory / optimizer_file(engine.rank, engine.num_processes))


def _record(
    job: TrainingJob, engine: Engine, step: int, position: dict[str, Any], directory: Path
) -> CheckpointManifest:
    assert job.job.dataset is not None
    return CheckpointManifest(
        format_version=2,
        step=step,
        variant=job.variant.name,
        experiment_digest=job.experiment_digest,
        dataset_digest=job.job.dataset.digest,
        num_processes=engine.num_processes,
        position=position,
        files=tuple(FileRecord.of(directory, path.name) for path in sorted(directory.iterdir())),
    )


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
