"""Checkpoints: written as a whole, verified before use, and going on from one gives the bytes of never having stopped."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tunewright.contracts.checkpoints import (
    CHECKPOINT_FILE,
    CheckpointManifest,
    CheckpointRef,
    read_checkpoint_manifest,
    verify_checkpoint,
)
from tunewright.contracts.datasets import FileRecord
from tunewright.contracts.errors import CheckpointCorrupted, NotFound
from tunewright.contracts.files import sha256_of_file, sync_directory, write_json_atomically
from tunewright.contracts.rundir import RunDir
from tunewright.trainer.processes import ProcessPlace
from tunewright.trainer.randomness import random_state, restore_random_state, seed_everything

WEIGHTS_FILE = "trained.safetensors"
OPTIMIZER_FILE = "optimizer.pt"
SCHEDULE_FILE = "schedule.pt"


@dataclass(frozen=True)
class TrainingIdentity:
    """What a checkpoint must be of, to be gone on from."""

    variant: str
    experiment_digest: str
    dataset_digest: str
    num_processes: int


def checkpoint_directory(run: RunDir, step: int) -> Path:
    """`checkpoints/step-000020`."""
    return run.checkpoints / f"step-{step:06d}"


def save_checkpoint(
    run: RunDir,
    step: int,
    identity: TrainingIdentity,
    position: dict[str, Any],
    weights: dict[str, torch.Tensor],
    optimizer: Any,
    schedule: Any,
    place: ProcessPlace,
    keep_last: int,
) -> CheckpointRef | None:
    """Write the checkpoint of `step`; its record, and then its name, come last. On rank 0 gives the reference."""
    final = checkpoint_directory(run, step)
    draft = final.with_name(f".{final.name}.tmp")
    if place.is_main:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
    barrier()
    torch.save(random_state(), draft / _random_file(place.rank))
    if place.is_main:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in weights.items()}, draft / WEIGHTS_FILE)
        torch.save(optimizer.state_dict(), draft / OPTIMIZER_FILE)
        torch.save(schedule.state_dict(), draft / SCHEDULE_FILE)
    barrier()
    if not place.is_main:
        barrier()
        return None
    files = tuple(FileRecord.of(draft, path.name) for path in sorted(draft.iterdir()))
    for file in files:
        _sync(draft / file.file)
    manifest = CheckpointManifest(
        step=step,
        variant=identity.variant,
        experiment_digest=identity.experiment_digest,
        dataset_digest=identity.dataset_digest,
        num_processes=identity.num_processes,
        position=position,
        files=files,
    )
    write_json_atomically(draft / CHECKPOINT_FILE, manifest.to_document())
    remove_checkpoint(final)
    os.rename(draft, final)
    sync_directory(final.parent)
    for old in whole_checkpoints(run)[:-keep_last]:
        remove_checkpoint(old)
    barrier()
    return CheckpointRef(path=str(final), step=step, sha256=sha256_of_file(final / CHECKPOINT_FILE))


def whole_checkpoints(run: RunDir) -> list[Path]:
    """Every directory with a record, oldest step first. What has none is torn, and does not count."""
    return sorted(path.parent for path in run.checkpoints.glob(f"step-*/{CHECKPOINT_FILE}"))


def remove_checkpoint(directory: Path) -> None:
    """Remove the record first: what a crash leaves in the middle does not look whole."""
    (directory / CHECKPOINT_FILE).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)


def find_checkpoint(run: RunDir, identity: TrainingIdentity, place: ProcessPlace) -> tuple[Path, CheckpointManifest] | None:
    """The newest whole checkpoint, verified; None where there is none.

    Raises CheckpointCorrupted where it does not match its digests or is of another experiment or dataset: training on
    from an older one in silence would hide that a disk or a copy has failed.
    """
    whole = whole_checkpoints(run)
    if not whole:
        return None
    newest = whole[-1]
    manifest = verify_checkpoint(newest) if place.is_main else read_checkpoint_manifest(newest)
    barrier()
    for field in ("variant", "experiment_digest", "dataset_digest"):
        was, now = getattr(manifest, field), getattr(identity, field)
        if was != now:
            raise CheckpointCorrupted(f"{newest}: is of another {field.replace('_', ' ')}: {was}, this job's is {now}")
    return newest, manifest


def load_weights(directory: Path) -> dict[str, torch.Tensor]:
    """The trained tensors of a checkpoint."""
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise NotFound(f"{path}: no such file")
    return load_file(path)


def restore_state(
    directory: Path, manifest: CheckpointManifest, optimizer: Any, schedule: Any, place: ProcessPlace, seed: int
) -> None:
    """Put optimizer, schedule and random state back. A rank that the checkpoint does not know starts its draws afresh."""
    optimizer.load_state_dict(torch.load(directory / OPTIMIZER_FILE, weights_only=True))
    schedule.load_state_dict(torch.load(directory / SCHEDULE_FILE, weights_only=True))
    own = directory / _random_file(place.rank)
    if own.is_file():
        restore_random_state(torch.load(own, weights_only=True))
    else:
        seed_everything(seed + manifest.step, place.rank)


def _random_file(rank: int) -> str:
    return f"random-{rank:05d}.pt"


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def barrier() -> None:
    """Wait until every process is here."""
    import torch.distributed as distributed

    if distributed.is_initialized():
        distributed.barrier()
