"""What came of a batch: a row for each run, in the order of the grid, the best one marked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import CauseKind, JobState, JobStatus
from tunewright.launcher.batch import Batch, Member, exit_code_of
from tunewright.launcher.finish import evaluation_of
from tunewright.launcher.progress import is_no_number
from tunewright.launcher.run_store import last_lines, read_json

_NUMBERS = ("step", "max_steps", "loss", "evaluation_loss")


def results_of(batch: Batch, statuses: Mapping[str, JobStatus]) -> list[dict[str, Any]]:
    """A row for each run. `is_best`: of those that succeeded, the lowest evaluation loss, else the lowest loss."""
    rows = [_row(member, batch.run_dir(member.run), statuses[member.run]) for member in batch.members]
    best = _best(rows)
    return [{**row, "is_best": row is best} for row in rows]


def _row(member: Member, run: RunDir, status: JobStatus) -> dict[str, Any]:
    place = {"stage": member.stage, "after": list(member.after)} if member.stage else {"point": dict(member.point)}
    return {
        "run": member.run,
        **place,
        "state": status.state.value,
        "exit_code": status.shell_exit_code if status.state.is_terminal else None,
        "cause": status.cause.value if status.cause else None,
        "message": status.message,
        **_newest_numbers(run),
        "run_dir": str(run.path),
        "model_dir": str(run.model) if run.model.is_dir() else None,
        "record": str(run.provenance) if run.provenance.is_file() else None,
    }


def _newest_numbers(run: RunDir) -> dict[str, Any]:
    """The last value of each that the run has logged. What an `evaluate` job measured counts as well."""
    numbers: dict[str, Any] = dict.fromkeys(_NUMBERS)
    for line in last_lines(run.metrics):
        numbers |= {name: line[name] for name in _NUMBERS if line.get(name) is not None}
    if numbers["evaluation_loss"] is None:
        numbers["evaluation_loss"] = evaluation_of(run).get("loss")
    if numbers["evaluation_loss"] is None:
        numbers["evaluation_loss"] = read_json(run.training).get("best_evaluation_loss")
    return {name: None if is_no_number(value) else value for name, value in numbers.items()}


def _best(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    done = [row for row in rows if row["state"] == JobState.SUCCEEDED]
    for key in ("evaluation_loss", "loss"):
        told = [row for row in done if isinstance(row[key], int | float)]
        if told:
            return min(told, key=lambda row: float(row[key]))
    return None


def batch_document(batch: Batch, statuses: Mapping[str, JobStatus]) -> dict[str, Any]:
    """What `--json` ends with: the whole, and a row for each run."""
    rows = results_of(batch, statuses)
    ended = all(status.state.is_terminal for status in statuses.values())
    return {
        batch.kind: batch.name,
        "directory": str(batch.directory),
        "state": overall_state(batch, statuses).value,
        "exit_code": exit_code_of(batch.members, statuses) if ended else None,
        "best": next((row["run"] for row in rows if row["is_best"]), None) if batch.kind == "sweep" else None,
        "runs": rows,
    }


def overall_state(batch: Batch, statuses: Mapping[str, JobStatus]) -> JobState:
    """One word for all: RUNNING until each has ended, then SUCCEEDED, or how the first that did not succeed ended."""
    if not all(status.state.is_terminal for status in statuses.values()):
        is_begun = any(status.state not in (JobState.PENDING, JobState.QUEUED) for status in statuses.values())
        return JobState.RUNNING if is_begun else JobState.PENDING
    failed = [one for one in _in_order(batch, statuses) if one.state is not JobState.SUCCEEDED]
    own = [status for status in failed if status.cause is not CauseKind.DEPENDENCY]
    return (own or failed)[0].state if failed else JobState.SUCCEEDED


def _in_order(batch: Batch, statuses: Mapping[str, JobStatus]) -> list[JobStatus]:
    return [statuses[member.run] for member in batch.members]


def table_text(batch: Batch, rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a table for people; `*` marks the best."""
    paths = [path for path, _ in batch.grid]
    places = ["stage"] if batch.kind == "pipeline" else _short_names(paths)
    lines = [("", "run", *places, "state", "step", "loss", "eval loss", "model")]
    for row in rows:
        values = [row["stage"]] if batch.kind == "pipeline" else [str(row["point"].get(path, "")) for path in paths]
        numbers = (_cell(row[name]) for name in ("step", "loss", "evaluation_loss"))
        state = str(row["state"]).lower().replace("_", " ")
        lines.append(("*" if row["is_best"] and batch.kind == "sweep" else "", row["run"], *values, state, *numbers,
                      row["model_dir"] or "-"))  # fmt: skip
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _short_names(paths: Sequence[str]) -> list[str]:
    """The last key of each path, where that tells them apart."""
    last = [path.rpartition(".")[2] for path in paths]
    counts = Counter(last)
    return [short if counts[short] == 1 else path for path, short in zip(paths, last, strict=True)]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
