"""A checkpoint's own record, written last, so that a directory without it is no checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from tunewright.contracts.datasets import FileRecord
from tunewright.contracts.errors import CheckpointCorrupted, NotFound
from tunewright.contracts.spec import Spec, digest_of

if TYPE_CHECKING:
    from tunewright.contracts.experiment import ExperimentSpec

CHECKPOINT_FILE = "checkpoint.json"

FREE_TRAINING_KEYS = frozenset({
    "strategy", "offload", "micro_batch_size", "activation_checkpointing", "compile", "log_every_steps",
    "max_worker_restarts", "peak_tflops",
})  # fmt: skip
"""Keys of `[training]` that say how the work is shared and shown, not what is computed: a run may go on with others."""


class CheckpointManifest(Spec):
    """`checkpoint.json`: what the checkpoint is of, and the digest of each of its files."""

    format_version: int = 1
    """The version of this record and of the checkpoint's layout."""

    step: int
    """Optimizer steps done."""

    variant: str
    """The training variant that wrote it."""

    experiment_digest: str
    """Digest of the resolved experiment it was written by."""

    continuation_digest: str = ""
    """Digest of what must be the same to go on from it (`continuation_digest`)."""

    strategy: str = ""
    """The strategy that wrote it. Another one may go on from it."""

    computed_in: str = ""
    """What forward passes were computed in: `model.dtype`, or float32 where that machine was faster in it."""

    dataset_digest: str
    """Digest of the dataset cache `position` counts in."""

    num_processes: int
    """Processes that wrote it: each has its own random state in it. Another number may go on from it."""

    position: dict[str, Any]
    """Where the data stood: epoch and batches done in it."""

    files: tuple[FileRecord, ...]
    """Every file of the checkpoint but this record, with its digest."""


class CheckpointRef(Spec):
    """A whole checkpoint."""

    path: str
    """Absolute path of its directory."""

    step: int
    """Optimizer steps done."""

    sha256: str
    """SHA-256 of its `checkpoint.json`, which covers everything else."""


def continuation_digest(experiment: ExperimentSpec) -> str:
    """SHA-256 of what a run that goes on must have in common with its checkpoint: all that decides what is computed.

    Model, dataset, rows held out for evaluation, seed, and `[training]` but for FREE_TRAINING_KEYS. Not the cluster:
    another number of processes goes on at the same place in the data, with numbers that differ in the last bits. Of a
    job that is no training: what it does and with what, since it reads no `[training]`.
    """
    document = experiment.to_document()
    if experiment.job != "train":
        return digest_of({key: document[key] for key in ("job", experiment.job, "model", "dataset", "seed")})
    evaluation = document["evaluation"] or {}
    return digest_of({
        "model": document["model"],
        "dataset": document["dataset"],
        "held_out": {key: evaluation.get(key) for key in ("fraction", "rows")},
        "seed": document["seed"],
        "training": {key: value for key, value in document["training"].items() if key not in FREE_TRAINING_KEYS},
    })  # fmt: skip


def read_checkpoint_manifest(checkpoint: Path) -> CheckpointManifest:
    """The record of the checkpoint at `checkpoint`. Raises NotFound, or CheckpointCorrupted if it cannot be read."""
    path = checkpoint / CHECKPOINT_FILE
    try:
        return CheckpointManifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"{checkpoint}: no whole checkpoint (it has no {CHECKPOINT_FILE})") from None
    except ValidationError as error:
        raise CheckpointCorrupted(f"{path}: is not a checkpoint's record: {error.errors()[0]['msg']}") from None


def verify_checkpoint(checkpoint: Path) -> CheckpointManifest:
    """Compare every file of the checkpoint with its digest. Raises CheckpointCorrupted naming all that differ."""
    manifest = read_checkpoint_manifest(checkpoint)
    problems = [problem for record in manifest.files if (problem := record.problem(checkpoint))]
    if problems:
        raise CheckpointCorrupted("\n".join(problems), "remove this checkpoint; the one before it will be used")
    return manifest
