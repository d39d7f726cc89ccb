"""Finding the checkpoint to go on from: the newest whole one, verified, and of this very experiment."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.contracts.checkpoints import (
    CHECKPOINT_FILE,
    CheckpointManifest,
    continuation_digest,
    read_checkpoint_manifest,
    verify_checkpoint,
)
from tunewright.contracts.errors import CheckpointCorrupted, IntegrityError
from tunewright.contracts.files import sync_directory, write_json_atomically
from tunewright.contracts.timestamps import utc_now
from tunewright.trainer.job import TrainingJob

DAMAGED_PREFIX = "damaged-"
"""What the name of a checkpoint begins with that was set aside: it never counts as whole."""

PROBLEM_FILE = "damaged.json"
"""In it: what differed, and when that was found."""


@dataclass(frozen=True)
class FoundCheckpoint:
    """A whole checkpoint and its record."""

    path: Path
    manifest: CheckpointManifest


def checkpoint_name(step: int) -> str:
    """`step-000020`."""
    return f"step-{step:06}"


def whole_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints below `directory` that have their record, oldest first. Torn ones have none."""
    found = [path.parent for path in directory.glob(f"step-*/{CHECKPOINT_FILE}")]
    return sorted(found, key=lambda path: (len(path.name), path.name))  # `step-1000000` comes after `step-999999`


def damaged_checkpoints(directory: Path) -> list[Path]:
    """The checkpoints below `directory` that were set aside since they did not match their digests."""
    return sorted(path for path in directory.glob(f"{DAMAGED_PREFIX}step-*") if path.is_dir())


def find_checkpoint(job: TrainingJob, verify: bool = False) -> FoundCheckpoint | None:
    """The newest whole checkpoint of the run, or None where it has written none yet.

    With `verify` every file is read and compared with its digest. What differs is set aside by a rename, told on
    stderr, and the checkpoint before it is taken.

    Raises CheckpointCorrupted where there are checkpoints but none is left to go on from: a run never starts again
    from nothing without a word. Raises IntegrityError for a checkpoint of another experiment.
    """
    problems: list[str] = []
    for path in reversed(whole_checkpoints(job.run_dir.checkpoints)):
        try:
            manifest = verify_checkpoint(path) if verify else read_checkpoint_manifest(path)
        except CheckpointCorrupted as error:
            if not verify:
                raise
            problems.append(error.message)
            _tell(f"{error.message}\n  set aside as {set_aside(path, error.message).name}")
            continue
        found = FoundCheckpoint(path, manifest)
        _refuse_another(job, found)
        if problems:
            _tell(f"going on from {path.name} instead")
        return found
    refuse_to_start_anew(job.run_dir.checkpoints, problems)
    return None


def refuse_to_start_anew(directory: Path, problems: Sequence[str] = ()) -> None:
    """Raise CheckpointCorrupted where `directory` has nothing but checkpoints that were set aside."""
    damaged = damaged_checkpoints(directory)
    if damaged:
        words = "\n".join(problems) or "\n".join(f"{path}: {_problem_of(path)}" for path in damaged)
        hint = f"no checkpoint is left to go on from; to train anew, remove {directory}/{DAMAGED_PREFIX}*"
        raise CheckpointCorrupted(words, hint)


def set_aside(checkpoint: Path, problem: str) -> Path:
    """Rename a checkpoint that differs from its digests, with the reason in it. Nothing of it is removed."""
    place, number = checkpoint.with_name(f"{DAMAGED_PREFIX}{checkpoint.name}"), 1
    while place.exists():
        number += 1
        place = checkpoint.with_name(f"{DAMAGED_PREFIX}{checkpoint.name}-{number}")
    checkpoint.rename(place)
    sync_directory(place.parent)
    # Last: the disk may be full, and the rename is what matters.
    write_json_atomically(place / PROBLEM_FILE, {"problem": problem, "found_at": utc_now()})
    return place


def describe_damaged(directory: Path) -> tuple[dict[str, Any], ...]:
    """What the record says of the checkpoints that were set aside."""
    return tuple({"name": path.name, "problem": _problem_of(path)} for path in damaged_checkpoints(directory))


def _problem_of(damaged: Path) -> str:
    try:
        return str(json.loads((damaged / PROBLEM_FILE).read_bytes())["problem"])
    except (OSError, ValueError, KeyError):
        return "differs from its digests"


def _tell(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


def open_checkpoint(job: TrainingJob, step: int) -> FoundCheckpoint:
    """The whole checkpoint of `step`, every file compared with its digest. Raises NotFound, CheckpointCorrupted."""
    path = job.run_dir.checkpoints / checkpoint_name(step)
    found = FoundCheckpoint(path, verify_checkpoint(path))
    _refuse_another(job, found)
    return found


def _refuse_another(job: TrainingJob, found: FoundCheckpoint) -> None:
    assert job.job.dataset is not None
    pairs = {
        "dataset": (found.manifest.dataset_digest, job.job.dataset.digest),
        "variant": (found.manifest.variant, job.variant.name),
        "experiment": (found.manifest.continuation_digest, continuation_digest(job.experiment)),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise IntegrityError(
                f"{found.path}: is of another {what} ({theirs}) than this job ({ours})",
                "a run goes on only as what it was: give the run another name, or remove its checkpoints",
            )
