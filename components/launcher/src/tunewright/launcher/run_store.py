"""The runs of a home: names, directories, and what is written in them before the cluster hears of a run."""

from __future__ import annotations

import difflib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunewright.contracts.errors import NotFound
from tunewright.contracts.files import sync_directory, write_json_atomically, write_text_atomically
from tunewright.contracts.jobs import JobHandle, JobSpec, SubmissionPlan
from tunewright.contracts.rundir import RunDir

_PREPARING = ".preparing-"


def free_name(home: Path, base: str) -> str:
    """`base`, or the first of `base-2`, `base-3` ... that no run has."""
    name, number = base, 1
    while RunDir.of(home, name).path.exists():
        number += 1
        name = f"{base}-{number}"
    return name


def find_run(home: Path, name: str) -> RunDir:
    """The run called `name`. Raises NotFound with close names."""
    run = RunDir.of(home, name)
    if not name or "/" in name or not run.job.is_file():
        names = [known.name for known in all_runs(home)]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean `{close[0]}`?" if close else "`launcher list` shows what there is"
        raise NotFound(f"no run `{name}` in {home / 'runs'}", hint)
    return run


def all_runs(home: Path) -> list[RunDir]:
    """Every run, oldest first."""
    runs = [RunDir(path.parent) for path in (home / "runs").glob("*/job.json") if not path.parent.name.startswith(".")]
    return sorted(runs, key=lambda run: (run.job.stat().st_mtime_ns, run.name))


def create_run(run: RunDir, documents: dict[str, Any], texts: dict[str, str], plan: SubmissionPlan) -> bool:
    """Make the run's directory with all its files at once. False where the name was taken in the meantime."""
    run.path.parent.mkdir(parents=True, exist_ok=True)
    draft = run.path.with_name(f"{_PREPARING}{run.name}-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        for directory in (draft, draft / "plan", draft / "logs", draft / "checkpoints"):
            directory.mkdir()
        for name, text in texts.items():
            write_text_atomically(draft / name, text)
        for name, document in documents.items():
            write_json_atomically(draft / name, document)
        write_plan(RunDir(draft), plan)
        return _claim(draft, run.path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _claim(draft: Path, path: Path) -> bool:
    """Rename `draft` to `path` unless that exists. A rename onto a directory that is not empty fails: that is the lock."""
    try:
        os.rename(draft, path)
    except OSError:
        if path.exists():
            return False
        raise
    sync_directory(path.parent)
    return True


def write_plan(run: RunDir, plan: SubmissionPlan) -> None:
    """Keep what the cluster gets."""
    for file in plan.files:
        write_text_atomically(run.plan / file.name, file.text)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object at `path`; empty where there is none."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def read_job(run: RunDir) -> JobSpec:
    """The run's job."""
    return JobSpec.model_validate_json(run.job.read_bytes())


def read_handle(run: RunDir) -> JobHandle | None:
    """The cluster's handle, or None before the cluster has accepted the job."""
    document = read_json(run.handle)
    return JobHandle.model_validate(document) if document else None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file. A half-written last line is left for later."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return
    for line in lines:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def last_line(path: Path) -> dict[str, Any]:
    """The last whole object of a JSON-lines file; empty where there is none."""
    last: dict[str, Any] = {}
    for line in read_lines(path):
        last = line
    return last
