"""`launcher list`, `status`, `wait`, `logs`, `stop`, `events`: the runs of this home."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from tunewright.contracts.errors import TunewrightError, UsageError
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobStatus
from tunewright.launcher.batch import find_batch
from tunewright.launcher.batch_commands import show_batch, stop_batch, wait_for_batch
from tunewright.launcher.commands.options import as_json, current_home, print_json, run_argument, run_or_batch_argument
from tunewright.launcher.finish import finish_run, last_document
from tunewright.launcher.follow import follow_run, wait_for_handle
from tunewright.launcher.launching import STOP_TIMEOUT_SECONDS, tell
from tunewright.launcher.pages import pages_of
from tunewright.launcher.progress import JsonReporter, QuietReporter, json_line, state_text
from tunewright.launcher.run_store import all_runs, find_run, last_line, read_handle, read_job, read_json, read_lines
from tunewright.launcher.states import cluster_of, states_of, status_of

_COLUMNS = ("run", "state", "cluster", "step", "loss", "started")


@click.command(name="list")
@as_json
def list_runs(as_json: bool) -> None:
    """List the runs, oldest first, each with its state now."""
    runs = all_runs(current_home())
    host = PluginHost.discover()
    states, pages = states_of(runs, host), pages_of(runs, host)
    rows = [_row(run, status, pages.get(run.name)) for run, status in zip(runs, states, strict=True)]
    if as_json:
        print_json(rows)
        return
    columns = (*_COLUMNS, "url") if pages else _COLUMNS
    table = [columns, *(tuple(_cell(row[column]) for column in columns) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(columns))]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _row(run: RunDir, status: JobStatus, page: str | None) -> dict[str, Any]:
    step, experiment = last_line(run.metrics), read_json(run.job).get("experiment") or {}
    return {
        "run": run.name,
        "state": status.state.value,
        "cluster": (experiment.get("cluster") or {}).get("name"),
        "step": step.get("step"),
        "loss": step.get("loss"),
        "started": status.started_at,
        "message": status.message,
        "url": page,
        "run_dir": str(run.path),
    }


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


@click.command()
@run_or_batch_argument
@as_json
def status(run: str, as_json: bool) -> None:
    """Show the state of RUN, where it stands, and where its files are. Of a sweep or a pipeline: all its runs."""
    if (batch := find_batch(current_home(), run)) is not None:
        show_batch(batch, as_json)
        return
    host = PluginHost.discover()
    found = find_run(current_home(), run)
    state = status_of(found, cluster_of(found, host))
    finish_run(found, state, host)
    page = pages_of([found], host).get(found.name)
    document = {**last_document(found, state), **_details(found, state), "url": page}
    if as_json:
        print_json(document)
        return
    width = max(map(len, document))
    for key, value in document.items():
        if value not in (None, ""):
            click.echo(f"{key.replace('_', ' '):{width}}  {value}")


def _details(run: RunDir, status: JobStatus) -> dict[str, Any]:
    handle, step = read_handle(run), last_line(run.metrics)
    return {
        "signal": status.signal,
        "attempt": status.attempt,
        "started_at": status.started_at,
        "ended_at": status.ended_at,
        "cluster": handle.cluster if handle else None,
        "native_id": handle.native_id if handle else None,
        "step": step.get("step"),
        "max_steps": step.get("max_steps"),
        "loss": step.get("loss"),
    }


@click.command()
@run_or_batch_argument
@click.option(
    "--timeout", "timeout_seconds", type=click.FloatRange(0), metavar="SECONDS", help="Give up then; exit 75."
)
@as_json
def wait(run: str, timeout_seconds: float | None, as_json: bool) -> int:
    """Wait for the end of RUN and exit with its exit code. Of a sweep or a pipeline: for the end of all its runs."""
    if (batch := find_batch(current_home(), run)) is not None:
        return wait_for_batch(batch, timeout_seconds, as_json)
    host = PluginHost.discover()
    found = find_run(current_home(), run)
    cluster, handle = cluster_of(found, host), wait_for_handle(found, timeout_seconds)
    state = follow_run(found, handle, cluster, JsonReporter() if as_json else QuietReporter(), timeout_seconds)
    finish_run(found, state, host)
    tell(found, state, cluster, as_json)
    return state.shell_exit_code


@click.command()
@run_argument
@click.option("--follow", "-f", is_flag=True, help="Go on until the job has ended.")
@click.option("--replica", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="The node.")
@click.option("--since", type=click.IntRange(min=0), default=0, metavar="BYTE", help="Start at this byte.")
@as_json
def logs(run: str, follow: bool, replica: int, since: int, as_json: bool) -> None:
    """Print what RUN wrote, byte for byte. With --json, an object for each line."""
    found = find_run(current_home(), run)
    nodes = read_job(found).resources.nodes
    if replica >= nodes:
        raise UsageError(f"--replica {replica}: run `{run}` has {nodes} node(s); allowed: 0 to {nodes - 1}")
    handle = wait_for_handle(found) if follow else read_handle(found)
    if handle is None:
        return
    pieces = cluster_of(found, PluginHost.discover()).logs(handle, replica=replica, follow=follow, since=since)
    if as_json:
        for line in lines_of(pieces):
            click.echo(json_line({"line": line.decode(errors="replace")}))
        return
    for piece in pieces:
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()


def lines_of(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines from pieces of any size; the last one need not end in a newline."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest


@click.command()
@run_or_batch_argument
@as_json
def stop(run: str, as_json: bool) -> None:
    """Stop RUN: its whole process tree. Returns once it has ended; a run that has ended is left as it is.

    Of a sweep or a pipeline: all its runs, also those that wait.
    """
    if (batch := find_batch(current_home(), run)) is not None:
        stop_batch(batch, as_json)
        return
    host = PluginHost.discover()
    found = find_run(current_home(), run)
    cluster, handle = cluster_of(found, host), wait_for_handle(found)
    cluster.stop(handle)
    state = follow_run(found, handle, cluster, QuietReporter(), STOP_TIMEOUT_SECONDS)
    finish_run(found, state, host)
    if as_json:
        print_json(last_document(found, state))
    else:
        click.echo(f"{found.name}: {state_text(state.to_document())}", err=True)


@click.command()
@run_argument
@as_json
def events(run: str, as_json: bool) -> None:
    """Show every change of RUN's state, with time and cause. With --json, a line each."""
    found, host = find_run(current_home(), run), PluginHost.discover()
    try:
        state = status_of(found, cluster_of(found, host))  # what has changed since anyone looked
        finish_run(found, state, host)
    except TunewrightError as error:
        click.echo(f"warning: {error}", err=True)
    for event in read_lines(found.events):
        if as_json:
            click.echo(json_line(event))
        else:
            cause = f" ({event['cause']})" if event.get("cause") else ""
            click.echo(f"{event['time']}  {event['state']}{cause}  {event.get('message', '')}".rstrip())
