"""`status`, `wait` and `stop` of a sweep or a pipeline: by its name, all its runs at once."""

from __future__ import annotations

import json
import time

import click

from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.status import CauseKind, JobState, JobStatus
from tunewright.launcher.batch import Batch, exit_code_of
from tunewright.launcher.batch_progress import batch_reporter_for, counts_text
from tunewright.launcher.batch_results import batch_document, results_of, table_text
from tunewright.launcher.drive import drive, has_ended
from tunewright.launcher.events import record_event
from tunewright.launcher.finish import finish_run
from tunewright.launcher.launching import STOP_TIMEOUT_SECONDS, ended_by_sigterm
from tunewright.launcher.states import states_of, unsent_status
from tunewright.launcher.sweeping import tell_batch
from tunewright.launcher.waiter import end_waiter
from tunewright.launcher.watch import Watch

_LOOK_SECONDS = 0.2


def show_batch(batch: Batch, as_json: bool) -> None:
    """`status NAME`: every run, with one question to each cluster."""
    runs = [batch.run_dir(member.run) for member in batch.members]
    made = [run for run in runs if run.job.is_file()]
    statuses = {run.name: unsent_status(run) for run in runs}
    statuses |= dict(zip((run.name for run in made), states_of(made, PluginHost.discover()), strict=True))
    if as_json:
        click.echo(json.dumps(batch_document(batch, statuses), indent=2, ensure_ascii=False))
        return
    click.echo(table_text(batch, results_of(batch, statuses)))
    click.echo(counts_text({run: status.state.value for run, status in statuses.items()}), err=True)


def wait_for_batch(batch: Batch, timeout_seconds: float | None, as_json: bool) -> int:
    """`wait NAME`: quiet until all have ended; the exit code is that of the sweep or pipeline. Starts nothing."""
    reporter = batch_reporter_for(batch, as_json, quiet=True)
    with ended_by_sigterm():
        statuses = drive(Watch(batch, PluginHost.discover()), reporter, None, timeout_seconds)
    tell_batch(batch, statuses, as_json)
    return exit_code_of(batch.members, statuses)


def stop_batch(batch: Batch, as_json: bool) -> None:
    """`stop NAME`: its waiter, what waits, and what runs. Returns once all have ended."""
    watch = Watch(batch, PluginHost.discover())
    end_waiter(batch)
    statuses = watch.look()
    for run, status in statuses.items():
        if not status.state.is_terminal and run not in watch.handles and batch.run_dir(run).path.is_dir():
            _stop_unsent(watch, run)
    for run, handle in watch.handles.items():
        if not statuses[run].state.is_terminal:
            watch.cluster(handle.cluster).stop(handle)
    statuses = _wait_for_end(watch)
    if as_json:
        click.echo(json.dumps(batch_document(batch, statuses), indent=2, ensure_ascii=False))
    else:
        click.echo(f"{batch.name}: {counts_text({run: one.state.value for run, one in statuses.items()})}", err=True)


def _stop_unsent(watch: Watch, run: str) -> None:
    """End a run that no cluster has heard of: nobody starts it any more."""
    status = JobStatus(state=JobState.STOPPED, cause=CauseKind.STOPPED, message="stopped before it was started")
    record_event(watch.batch.run_dir(run), status)
    finish_run(watch.batch.run_dir(run), status, watch.host)


def _wait_for_end(watch: Watch) -> dict[str, JobStatus]:
    deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
    while not has_ended(statuses := watch.look()) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    return statuses
