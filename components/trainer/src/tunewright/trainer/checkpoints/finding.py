"""Finding the checkpoint to go on from: the newest whole one, verified, and of this very experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.checkpoints import (
    CHECKPOINT_FILE,
    CheckpointManifest,
    read_checkpoint_manifest,
    verify_checkpoint,
)
from tunewright.contracts.errors import IntegrityError
from tunewright.trainer.job import TrainingJob


@dataclass(frozen=True)
class FoundCheckpoint:
    """A whole checkpoint and its record."""

    path: Path
    manifest: CheckpointManifest


def whole_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints below `directory` that have their record, oldest first. Torn ones have none."""
    found = [path.parent for path in directory.glob(f"step-*/{CHECKPOINT_FILE}")]
    return sorted(found, key=lambda path: (len(path.name), path.name))  # `step-1000000` comes after `step-999999`


def find_checkpoint(job: TrainingJob, verify: bool = False) -> FoundCheckpoint | None:
    """The newest whole checkpoint of the run, or None. With `verify` every file is read and compared with its digest.

    Raises CheckpointCorrupted naming what differs, IntegrityError for a checkpoint of another experiment.
    """
    paths = whole_checkpoints(job.run_dir.checkpoints)
    if not paths:
        return None
    manifest = verify_checkpoint(paths[-1]) if verify else read_checkpoint_manifest(paths[-1])
    _refuse_another(job, FoundCheckpoint(paths[-1], manifest))
    return FoundCheckpoint(paths[-1], manifest)


def _refuse_another(job: TrainingJob, found: FoundCheckpoint) -> None:
    assert job.job.dataset is not None
    pairs = {
        "experiment": (found.manifest.experiment_digest, job.experiment_digest),
        "dataset": (found.manifest.dataset_digest, job.job.dataset.digest),
        "variant": (found.manifest.variant, job.variant.name),
        "number of processes": (found.manifest.num_processes, job.num_processes),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise IntegrityError(
                f"{found.path}: is of another {what} ({theirs}) than this job ({ours})",
                "a run goes on only as what it was: give the run another name, or remove its checkpoints",
            )
