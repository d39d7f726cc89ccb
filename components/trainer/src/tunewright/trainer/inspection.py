"""What a checkpoint or a model holds, its digests verified. Needs no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunewright.contracts.checkpoints import CHECKPOINT_FILE, verify_checkpoint
from tunewright.contracts.datasets import FileRecord
from tunewright.contracts.errors import IntegrityError, NotFound
from tunewright.contracts.rundir import RunDir
from tunewright.trainer.checkpoints.finding import whole_checkpoints

_ORIGIN_FILE = "tunewright.json"


def inspect_path(path: Path) -> dict[str, Any]:
    """Describe the checkpoint, model or run at `path`. Raises NotFound, CheckpointCorrupted, IntegrityError."""
    if (path / CHECKPOINT_FILE).exists():
        return _describe_checkpoint(path)
    if (path / _ORIGIN_FILE).exists():
        return _describe_model(path)
    run = RunDir(path)
    checkpoints = whole_checkpoints(run.checkpoints)
    if checkpoints:
        return _describe_checkpoint(checkpoints[-1])
    if (run.model / _ORIGIN_FILE).exists():
        return _describe_model(run.model)
    raise NotFound(f"{path}: is no checkpoint, no model of ours and no run that has either")


def _describe_checkpoint(path: Path) -> dict[str, Any]:
    manifest = verify_checkpoint(path).to_document()
    return {"kind": "checkpoint", "path": str(path), **manifest, "verified": True}


def _describe_model(path: Path) -> dict[str, Any]:
    """A model is verified against its run's record, where that is beside it."""
    origin = json.loads((path / _ORIGIN_FILE).read_bytes())
    files = [FileRecord.of(path, one.name) for one in sorted(path.iterdir()) if one.is_file()]
    recorded = _recorded_files(path)
    problems = [problem for record in recorded if (problem := record.problem(path))]
    if problems:
        raise IntegrityError("\n".join(problems), "the run's provenance.json says what the files were")
    documents = [record.to_document() for record in files]
    return {"kind": "model", "path": str(path), **origin, "verified": bool(recorded), "files": documents}


def _recorded_files(model: Path) -> list[FileRecord]:
    record = model.absolute().parent / "provenance.json"
    if not record.is_file():
        return []
    return [FileRecord.model_validate(one) for one in json.loads(record.read_bytes()).get("model_files", [])]
