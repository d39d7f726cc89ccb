"""The end of a run: its record, where the job could not write it itself, and what the user is told."""

from __future__ import annotations

import contextlib
from typing import Any

import click

from tunewright.contracts.clusters import Cluster
from tunewright.contracts.errors import TunewrightError
from tunewright.contracts.file_locks import held
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.provenance import compose_record, write_record
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobState, JobStatus
from tunewright.contracts.timestamps import utc_now
from tunewright.launcher.progress import state_text
from tunewright.launcher.run_store import go_on_words, read_handle, read_json

_LAST_LOG_BYTES = 4000
_LAST_LOG_LINES = 15


def finish_run(run: RunDir, status: JobStatus, host: PluginHost) -> None:
    """Write the record of an ended run unless it is there: a job that succeeds has written its own.

    Of several launchers one writes it. A job that its cluster does not know may turn up again: it gets no record.
    """
    if not status.state.is_terminal or status.state is JobState.NOT_FOUND or run.provenance.exists():
        return
    with contextlib.suppress(PermissionError), held(run.path / ".record.lock"):
        if run.provenance.exists():
            return
        record = compose_record(run, status, utc_now())
        write_record(run, record)
        for complaint in host.notify("tunewright_run_finished", record=record):
            click.echo(f"warning: {complaint}", err=True)


def last_document(run: RunDir, status: JobStatus) -> dict[str, Any]:
    """What `--json` ends with."""
    return {
        "run": run.name,
        "state": status.state.value,
        "exit_code": status.shell_exit_code if status.state.is_terminal else None,
        "run_dir": str(run.path),
        "model_dir": str(run.model) if run.model.is_dir() else None,
        "record": str(run.provenance) if run.provenance.is_file() else None,
        "cause": status.cause.value if status.cause else None,
        "message": status.message,
        **({"cost": cost} if (cost := read_json(run.provenance).get("cost")) else {}),
        **({"evaluation": evaluation} if (evaluation := evaluation_of(run)) else {}),
    }


def evaluation_of(run: RunDir) -> dict[str, Any]:
    """The metrics that an `evaluate` job has measured; empty where it has not, or is none."""
    metrics = read_json(run.evaluation).get("metrics")
    return metrics if isinstance(metrics, dict) else {}


def outcome_text(run: RunDir, status: JobStatus) -> str:
    """What people are told at the end: what came of it, where it is, how to go on."""
    lines = [f"{run.name}: {state_text(status.to_document())}"]
    for name, value in flat_metrics(evaluation_of(run)).items():
        lines.append(f"  {name}: {value:.4f}" if isinstance(value, float) else f"  {name}: {value}")
    if run.model.is_dir():
        lines.append(f"  model:  {run.model}")
    if run.provenance.is_file():
        lines.append(f"  record: {run.provenance}")
    if status.state is not JobState.SUCCEEDED:
        checkpoints = sorted(path.name for path in run.checkpoints.glob("step-*") if path.is_dir())
        where = f"from {checkpoints[-1]}" if checkpoints else "from the start"
        lines.append(f"  log:    launcher logs {run.name}")
        lines.append(f"  to go on {where}: {go_on_words(run)}")
    return "\n".join(lines)


def flat_metrics(metrics: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Metrics that are tables, as a harness gives one of each task, as one table: `gsm8k.exact_match`."""
    flat: dict[str, Any] = {}
    for name, value in metrics.items():
        flat |= flat_metrics(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def last_log_lines(run: RunDir, cluster: Cluster) -> list[str]:
    """The end of what the job wrote, for a run that failed. Empty where the log cannot be had."""
    tail = b""
    with contextlib.suppress(TunewrightError):
        handle = read_handle(run)
        for piece in cluster.logs(handle) if handle is not None else ():
            tail = (tail + piece)[-_LAST_LOG_BYTES:]
    return tail.decode(errors="replace").splitlines()[-_LAST_LOG_LINES:]
