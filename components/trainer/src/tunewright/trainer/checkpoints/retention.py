"""Removing checkpoints: old ones, and what killed attempts left of some. Those that were set aside stay."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from tunewright.contracts.checkpoints import CHECKPOINT_FILE
from tunewright.contracts.files import sync_directory
from tunewright.trainer.checkpoints.finding import checkpoint_name, whole_checkpoints


def remove_old_checkpoints(directory: Path, keep_last: int, keep: Collection[int] = ()) -> None:
    """Remove all but the newest `keep_last` and those of the steps in `keep`.

    The record goes first, so that a crash leaves nothing that looks whole.
    """
    kept = {checkpoint_name(step) for step in keep}
    for path in whole_checkpoints(directory)[:-keep_last]:
        if path.name in kept:
            continue
        (path / CHECKPOINT_FILE).unlink()
        sync_directory(path)
        shutil.rmtree(path)


def remove_torn_checkpoints(directory: Path) -> None:
    """Remove what killed attempts left half-written or half-removed."""
    whole = set(whole_checkpoints(directory))
    for path in (*directory.glob(".step-*.tmp"), *directory.glob("step-*")):
        if path not in whole:
            shutil.rmtree(path)
