"""A run's directory is there as a whole or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tunewright.contracts.rundir import RunDir
from tunewright.launcher.run_store import create_run, free_name


def entries(runs: Path) -> list[str]:
    """What lies in a directory of runs, drafts included."""
    return sorted(path.name for path in runs.iterdir())


def test_a_name_that_is_taken_is_not_written_over(tmp_path: Path) -> None:
    run = RunDir.of(tmp_path, "one")
    assert create_run(run, {"job.json": b"first", "plan/job.txt": b"plan"})
    assert not create_run(run, {"job.json": b"second"})
    assert run.job.read_bytes() == b"first" and (run.plan / "job.txt").read_bytes() == b"plan"
    assert entries(tmp_path / "runs") == ["one"]
    assert free_name(tmp_path, "one") == "one-2" and free_name(tmp_path, "two") == "two"


def test_a_run_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no-such-directory"):
        create_run(RunDir.of(tmp_path, "one"), {"job.json": b"job", "no-such-directory/file": b""})
    assert entries(tmp_path / "runs") == []


def test_drafts_of_killed_launchers_are_removed_after_a_day_and_no_sooner(tmp_path: Path) -> None:
    for name in ("old", "young"):
        (tmp_path / "runs" / f".preparing-{name}").mkdir(parents=True)
    two_days_ago = time.time() - 2 * 24 * 3600
    os.utime(tmp_path / "runs" / ".preparing-old", (two_days_ago, two_days_ago))
    create_run(RunDir.of(tmp_path, "one"), {"job.json": b"job"})
    assert entries(tmp_path / "runs") == [".preparing-young", "one"]
