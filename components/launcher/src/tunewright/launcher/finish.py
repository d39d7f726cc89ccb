"""The end of a run: its record, where the job could not write it itself, and what the user is told."""

from __future__ import annotations

from typing import Any

import click

from tunewright.contracts.clusters import Cluster
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.provenance import compose_record, write_record
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobState, JobStatus
from tunewright.contracts.timestamps import utc_now
from tunewright.launcher.run_store import read_handle

_LAST_LOG_BYTES = 4000
_LAST_LOG_LINES = 15


def finish_run(run: RunDir, status: JobStatus, host: PluginHost) -> None:
    """Write the record of an ended run unless it is there. The job writes its own when it succeeds."""
    if run.provenance.exists() or not status.state.is_terminal or status.state is JobState.NOT_FOUND:
        return
    record = compose_record(run, status, utc_now())
    write_record(run, record)
    for complaint in host.notify("tunewright_run_finished", record=record):
        click.echo(complaint, err=True)


def last_document(run: RunDir, status: JobStatus) -> dict[str, Any]:
    """What `--json` ends with."""
    return {
        "run": run.name,
        "state": status.state.value,
        "exit_code": status.shell_exit_code if status.state.is_terminal else None,
        "cause": status.cause.value if status.cause else None,
        "message": status.message,
        "run_dir": str(run.path),
        "model_dir": str(run.model) if run.model.is_dir() else None,
        "record": str(run.provenance) if run.provenance.is_file() else None,
    }


def outcome_text(run: RunDir, status: JobStatus) -> str:
    """What people are told at the end."""
    if status.state is JobState.SUCCEEDED:
        return f"{run.name}: succeeded\n  model:  {run.model}\n  record: {run.provenance}"
    how = f" ({status.cause.value.replace('_', ' ')})" if status.cause else ""
    what = f": {status.message}" if status.message else ""
    text = f"{run.name}: {status.state.value.lower().replace('_', ' ')}{how}{what}\n  log:    launcher logs {run.name}"
    checkpoints = sorted(path.name for path in run.checkpoints.glob("step-*") if path.is_dir())
    if checkpoints:
        text += f"\n  go on from {checkpoints[-1]}: launch EXPERIMENT --name {run.name}"
    return text


def last_log_lines(run: RunDir, cluster: Cluster) -> list[str]:
    """The end of what the job wrote, for a run that failed."""
    handle = read_handle(run)
    if handle is None:
        return []
    tail = b""
    for piece in cluster.logs(handle):
        tail = (tail + piece)[-_LAST_LOG_BYTES:]
    return tail.decode(errors="replace").splitlines()[-_LAST_LOG_LINES:]
