"""`launcher list`, `status`, `wait`, `logs`, `stop`, `events`: the runs of this home."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from tunewright.contracts.errors import TunewrightError, UsageError
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobStatus
from tunewright.launcher.commands.launch import tell
from tunewright.launcher.commands.options import as_json, current_home, print_json
from tunewright.launcher.finish import finish_run, last_document
from tunewright.launcher.follow import follow_run
from tunewright.launcher.progress import reporter_for
from tunewright.launcher.run_store import all_runs, find_run, last_line, read_handle, read_job, read_lines
from tunewright.launcher.states import states_of
from tunewright.launcher.submit import cluster_of, status_of

run_argument = click.argument("run", metavar="RUN")


@click.command(name="list")
@as_json
def list_runs(as_json: bool) -> None:
    """List the runs, oldest first, each with its state now."""
    host = PluginHost.discover()
    runs = all_runs(current_home())
    rows = [_row(run, status) for run, status in zip(runs, states_of(runs, host), strict=True)]
    if as_json:
        print_json(rows)
        return
    titles = ("run", "state", "cluster", "step", "loss", "started")
    table = [titles, *(tuple(_cell(row[title]) for title in titles) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(titles))]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _row(run: RunDir, status: JobStatus) -> dict[str, Any]:
    step, job = last_line(run.metrics), read_job(run)
    return {
        "run": run.name,
        "state": status.state.value,
        "cluster": job.experiment.cluster.name if job.experiment else None,
        "step": step.get("step"),
        "loss": step.get("loss"),
        "started": status.started_at,
        "run_dir": str(run.path),
    }


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


@click.command()
@run_argument
@as_json
def status(run: str, as_json: bool) -> None:
    """Show the state of RUN, where it stands, and where its files are."""
    host = PluginHost.discover()
    found = find_run(current_home(), run)
    state = status_of(found, cluster_of(found, host))
    finish_run(found, state, host)
    handle, step = read_handle(found), last_line(found.metrics)
    document = {
        **last_document(found, state),
        "signal": state.signal,
        "attempt": state.attempt,
        "started_at": state.started_at,
        "ended_at": state.ended_at,
        "native_id": handle.native_id if handle else None,
        "step": step.get("step"),
        "max_steps": step.get("max_steps"),
        "loss": step.get("loss"),
    }
    if as_json:
        print_json(document)
        return
    width = max(map(len, document))
    for key, value in document.items():
        if value not in (None, ""):
            click.echo(f"{key.replace('_', ' '):{width}}  {value}")


@click.command()
@run_argument
@click.option("--timeout", "timeout_seconds", type=float, metavar="SECONDS", help="Give up waiting after this; exit 75.")
@as_json
def wait(run: str, timeout_seconds: float | None, as_json: bool) -> int:
    """Wait for the end of RUN and exit with its exit code."""
    host = PluginHost.discover()
    found = find_run(current_home(), run)
    cluster, handle = cluster_of(found, host), read_handle(found)
    if handle is None:
        raise UsageError(f"run `{run}` was never submitted", f"`launch EXPERIMENT --name {run}` goes on with it")
    state = follow_run(found, handle, cluster, reporter_for(as_json, quiet=not as_json), timeout_seconds)
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
    handle = read_handle(found)
    if handle is None:
        return
    pieces = cluster_of(found, PluginHost.discover()).logs(handle, replica=replica, follow=follow, since=since)
    if not as_json:
        for piece in pieces:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
        return
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            click.echo(json.dumps({"line": line.decode(errors="replace")}))
    if rest:
        click.echo(json.dumps({"line": rest.decode(errors="replace")}))


@click.command()
@run_argument
@as_json
def stop(run: str, as_json: bool) -> None:
    """Stop RUN: its whole process tree. A run that has ended is left as it is."""
    host = PluginHost.discover()
    found = find_run(current_home(), run)
    cluster, handle = cluster_of(found, host), read_handle(found)
    if handle is None:
        state = status_of(found, cluster)
    else:
        cluster.stop(handle)
        state = follow_run(found, handle, cluster, reporter_for(False, quiet=True), timeout_seconds=120)
        finish_run(found, state, host)
    if as_json:
        print_json(last_document(found, state))
    else:
        click.echo(f"{found.name}: {state.state.value.lower()}", err=True)


@click.command()
@run_argument
@as_json
def events(run: str, as_json: bool) -> None:
    """Show every change of RUN's state, with time and cause."""
    found = find_run(current_home(), run)
    try:
        status_of(found, cluster_of(found, PluginHost.discover()))  # what has changed since anyone looked
    except TunewrightError as error:
        click.echo(f"warning: {error}", err=True)
    for event in read_lines(found.events):
        if as_json:
            click.echo(json.dumps(event, ensure_ascii=False))
        else:
            cause = f" ({event['cause']})" if event.get("cause") else ""
            click.echo(f"{event['time']}  {event['state']}{cause}  {event.get('message', '')}".rstrip())


