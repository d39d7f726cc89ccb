"""Checkpoints: every process writes its share beside their place, the record comes last, then all is put in place.

They are the same whatever the strategy: whole tensors by the parameter's name, each in one process's files. So a run
can go on in another number of processes.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tunewright.contracts.checkpoints import (
    CHECKPOINT_FILE,
    CheckpointManifest,
    CheckpointRef,
    continuation_digest,
)
from tunewright.contracts.datasets import FileRecord
from tunewright.contracts.files import sha256_of_file, sync_directory, write_json_atomically
from tunewright.trainer.api import TrainerVariant
from tunewright.trainer.checkpoints.host_copies import HostCopies, compact
from tunewright.trainer.checkpoints.random_states import random_state
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.model_loading import sync_file
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


@dataclass(frozen=True)
class Snapshot:
    """What one process writes of the checkpoint of `step`."""

    step: int
    rank: int
    num_processes: int
    share: Share

    common: dict[str, Any] | None = None
    """On the main process: schedule, random states of all processes, what else the strategy keeps."""

    record: CheckpointManifest | None = None
    """On the main process: the checkpoint's record, its files still missing."""


def tensors_file(rank: int, num_processes: int) -> str:
    """`trained-00000-of-00002.safetensors`: the parameters that process `rank` wrote."""
    return f"trained-{rank:05}-of-{num_processes:05}.safetensors"


def optimizer_file(rank: int, num_processes: int) -> str:
    """`optimizer-00000-of-00002.pt`: what the optimizer keeps of those."""
    return f"optimizer-{rank:05}-of-{num_processes:05}.pt"


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


def take_share(engine: Engine, trained: Trained, copies: HostCopies | None = None) -> Share:
    """This process's share of the trained state. Collective. Without `copies` it is the state itself, not a copy."""
    parameters = trained_by_name(trained.model)
    sizes = [parameter.numel() for parameter in parameters.values()]
    share, keep = Share({}, {}), copies.copy if copies else compact
    for (name, parameter), owner in zip(parameters.items(), owners_of(sizes, engine.num_processes), strict=True):
        tensor, state = engine.whole(parameter), engine.optimizer_state(parameter)
        if owner == engine.rank:
            share.tensors[name] = keep(name, tensor)
            share.optimizer[name] = {key: keep(f"{name}/{key}", value) for key, value in state.items()}
    if copies:
        copies.wait()
    return share


def take_snapshot(
    job: TrainingJob,
    engine: Engine,
    trained: Trained,
    step: int,
    position: dict[str, Any],
    copies: HostCopies | None = None,
) -> Snapshot:
    """What this process writes of the checkpoint of `step`. Collective.

    With `copies` nothing of it changes when training goes on.
    """
    share, states = take_share(engine, trained, copies), engine.gather_objects(random_state())
    extra = engine.extra_state()
    if not engine.is_main:
        return Snapshot(step, engine.rank, engine.num_processes, share)
    common = {"scheduler": trained.scheduler.state_dict(), "random": states, "engine": extra}
    record = _record(job, engine, step, position)
    return Snapshot(step, engine.rank, engine.num_processes, share, copy.deepcopy(common), copy.deepcopy(record))


def _record(job: TrainingJob, engine: Engine, step: int, position: dict[str, Any]) -> CheckpointManifest:
    assert job.job.dataset is not None
    return CheckpointManifest(
        format_version=2,
        step=step,
        variant=job.variant.name,
        experiment_digest=job.experiment_digest,
        continuation_digest=continuation_digest(job.experiment),
        strategy=engine.strategy,
        computed_in=engine.computed_in,
        dataset_digest=job.job.dataset.digest,
        num_processes=engine.num_processes,
        position=position,
        files=(),
    )


def temporary_directory(directory: Path) -> Path:
    """Where the checkpoint `directory` is written before it is whole."""
    return directory.with_name(f".{directory.name}.tmp")


def write_snapshot(directory: Path, snapshot: Snapshot) -> tuple[FileRecord, ...]:
    """Write this process's files of the checkpoint `directory`, each on disk and with its digest. In any thread."""
    from safetensors.torch import save_file

    temporary, rank, count = temporary_directory(directory), snapshot.rank, snapshot.num_processes
    temporary.mkdir(parents=True, exist_ok=True)
    save_file(snapshot.share.tensors, temporary / tensors_file(rank, count))
    torch.save(snapshot.share.optimizer, temporary / optimizer_file(rank, count))
    names = [tensors_file(rank, count), optimizer_file(rank, count)]
    if snapshot.common is not None:
        torch.save(snapshot.common, temporary / COMMON_FILE)
        names.append(COMMON_FILE)
    for name in names:
        sync_file(temporary / name)
    return tuple(FileRecord.of(temporary, name) for name in names)


def put_in_place(directory: Path, record: CheckpointManifest, files: Iterable[FileRecord]) -> CheckpointRef:
    """Make the checkpoint `directory` whole, once every process has written its files: the record, then the name."""
    temporary = temporary_directory(directory)
    whole = record.model_copy(update={"files": tuple(sorted(files, key=lambda one: one.file))})
    write_json_atomically(temporary / CHECKPOINT_FILE, whole.to_document())
    shutil.rmtree(directory, ignore_errors=True)  # a torn one, of an attempt that was killed
    temporary.rename(directory)
    sync_directory(directory.parent)
    return CheckpointRef(path=str(directory), step=record.step, sha256=sha256_of_file(directory / CHECKPOINT_FILE))
