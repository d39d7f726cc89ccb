"""The runs of a home: their names, their directories, and reading what is in them."""

from __future__ import annotations

import difflib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunewright.contracts.errors import IntegrityError, NotFound
from tunewright.contracts.files import json_text, sync_directory, write_bytes_atomically
from tunewright.contracts.jobs import JobHandle, JobSpec, PlannedFile, SubmissionPlan
from tunewright.contracts.rundir import RunDir

_DRAFT = ".preparing-"
_DRAFT_LIFE_SECONDS = 24 * 3600
_TAIL_BYTES = 1 << 16


def free_name(home: Path, base: str, endings: Sequence[str] = ("",)) -> str:
    """`base`, or the first of `base-2`, `base-3` ... that no run has with any of the `endings`."""
    name, number = base, 1
    while any(RunDir.of(home, name + ending).path.exists() for ending in endings):
        number += 1
        name = f"{base}-{number}"
    return name


def find_run(home: Path, name: str) -> RunDir:
    """The run called `name`. Raises NotFound with close names."""
    run = RunDir.of(home, name)
    if not name or "/" in name or name.startswith(".") or not run.job.is_file():
        close = difflib.get_close_matches(name, [known.name for known in all_runs(home)], n=3)
        meant = " or ".join(f"`{one}`" for one in close)
        hint = f"did you mean {meant}?" if close else "`launcher list` shows what there is"
        raise NotFound(f"no run `{name}` in {home / 'runs'}", hint)
    return run


def all_runs(home: Path) -> list[RunDir]:
    """Every run, oldest first."""
    runs = [RunDir(path.parent) for path in (home / "runs").glob("*/job.json") if not path.parent.name.startswith(".")]
    return sorted(runs, key=lambda run: (run.job.stat().st_mtime_ns, run.name))


def create_run(run: RunDir, files: Mapping[str, bytes]) -> bool:
    """Make the run's directory with all of `files` (by relative path) at once. False where the name is taken by now."""
    run.path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned_drafts(run.path.parent)
    draft = run.path.with_name(f"{_DRAFT}{run.name}-{os.getpid()}-{os.urandom(4).hex()}")
    try:
        for directory in (draft, draft / "plan", draft / "logs", draft / "checkpoints"):
            directory.mkdir()
        for name, content in files.items():
            write_bytes_atomically(draft / name, content)
        return _claim(draft, run.path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _claim(draft: Path, path: Path) -> bool:
    """Rename `draft` to `path` unless that is there: a rename onto a directory with files fails, and so is the lock."""
    try:
        os.rename(draft, path)
    except OSError:
        if path.exists():
            return False
        raise
    sync_directory(path.parent)
    return True


def _remove_abandoned_drafts(runs: Path) -> None:
    """Drafts of launchers that were killed while they wrote one."""
    for draft in runs.glob(f"{_DRAFT}*"):
        try:
            is_old = time.time() - draft.stat().st_mtime > _DRAFT_LIFE_SECONDS
        except FileNotFoundError:  # its launcher has just finished it
            continue
        if is_old:
            shutil.rmtree(draft, ignore_errors=True)


def plan_files(plan: SubmissionPlan) -> dict[str, bytes]:
    """What the cluster gets, by path in the run."""
    return {f"plan/{file.name}": file.text.encode() for file in plan.files}


def json_bytes(document: object) -> bytes:
    """A JSON file's content."""
    return json_text(document).encode()


def launch_name(run: RunDir) -> str:
    """What `launch --name` goes on with this run by: its own name, or that of the pipeline it is a stage of."""
    return str(read_json(run.submission).get("pipeline") or run.name)


def go_on_words(run: RunDir) -> str:
    """The command that goes on with this run, or with the pipeline or sweep that it is of."""
    submission = read_json(run.submission)
    if "sweep" in submission:
        return f"the same `sweep` with --name {submission['sweep']}"
    return f"the same `launch` with --name {submission.get('pipeline') or run.name}"


def read_plan(run: RunDir) -> SubmissionPlan:
    """The run's plan, as it was made. `submission.json` keeps the order of its files."""
    names = read_json(run.submission).get("files") or sorted(path.name for path in run.plan.iterdir())
    files = tuple(PlannedFile(name=name, text=(run.plan / name).read_bytes().decode()) for name in names)
    return SubmissionPlan(cluster=cluster_name_of(run), run=run.name, files=files)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object at `path`; empty where there is none."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def read_job(run: RunDir) -> JobSpec:
    """The run's job. Raises IntegrityError where it cannot be read."""
    try:
        return JobSpec.model_validate_json(run.job.read_bytes())
    except (OSError, ValidationError) as error:
        raise IntegrityError(f"{run.job}: is not a job: {_first_line(error)}") from None


def cluster_name_of(run: RunDir) -> str:
    """The cluster the run was planned for. Raises IntegrityError where its job does not say."""
    name = ((read_json(run.job).get("experiment") or {}).get("cluster") or {}).get("name")
    if not isinstance(name, str):
        raise IntegrityError(f"{run.job}: is not a job: it names no cluster")
    return name


def read_handle(run: RunDir) -> JobHandle | None:
    """The cluster's handle, or None before the cluster has accepted the job. Raises IntegrityError for a broken one."""
    document = read_json(run.handle)
    if not document and not run.handle.exists():
        return None
    try:
        return JobHandle.model_validate(document)
    except ValidationError as error:
        raise IntegrityError(f"{run.handle}: is not a job's handle: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file. A half-written last line is left for later."""
    try:
        yield from objects_in(path.read_bytes())
    except FileNotFoundError:
        return


def objects_in(content: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects among the lines of `content`."""
    for line in content.split(b"\n"):
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue
        if isinstance(value, dict):
            yield value


def last_line(path: Path) -> dict[str, Any]:
    """The last whole object of a JSON-lines file; empty where there is none. Does not read the whole file."""
    last: dict[str, Any] = {}
    for value in last_lines(path):
        last = value
    return last


def last_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole objects at the end of a JSON-lines file, as many as are there within its last 64 KiB."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            tail = file.read()
    except FileNotFoundError:
        return
    yield from objects_in(tail)
