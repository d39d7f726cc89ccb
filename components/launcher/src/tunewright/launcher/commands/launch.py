"""`launcher launch`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from tunewright.contracts.clusters import Cluster
from tunewright.contracts.jobs import JobHandle
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobState, JobStatus
from tunewright.launcher.commands.options import as_json, experiment_arguments, experiment_options
from tunewright.launcher.finish import finish_run, last_document, last_log_lines, outcome_text
from tunewright.launcher.follow import follow_run
from tunewright.launcher.prepare import CheckedExperiment, check_experiment, say_notes
from tunewright.launcher.progress import reporter_for
from tunewright.launcher.run_store import all_runs
from tunewright.launcher.submit import continue_run, new_run, status_of, submit_run, unfinished_twin


@click.command()
@experiment_options
@click.option("--detach", is_flag=True, help="Return once the cluster has accepted the job.")
@as_json
def launch(
    experiment: Path,
    cluster: str | None,
    assignments: tuple[str, ...],
    name: str | None,
    allow_dirty: bool,
    detach: bool,
    as_json: bool,
) -> int:
    """Launch EXPERIMENT, follow it to its end, and record it.

    Exits with the run's own exit code. Killing the launcher leaves the job alone. A NAME that exists and was cut short
    goes on from its last checkpoint.
    """
    host = PluginHost.discover()
    checked = check_experiment(experiment_arguments(experiment, cluster, assignments, name, allow_dirty), host)
    for note in say_notes(checked.report):
        click.echo(note, err=True)
    run, handle = start(checked, name)
    click.echo(f"run {run.name}: {run.path}", err=True)
    if detach:
        status = status_of(run, checked.cluster)
        click.echo(json.dumps(last_document(run, status)) if as_json else run.name)
        return 0
    return follow_to_the_end(run, handle, checked.cluster, host, as_json)


def start(checked: CheckedExperiment, name: str | None) -> tuple[RunDir, JobHandle]:
    """A new run, or the one called `name` gone on with."""
    existing = RunDir.of(checked.home, name) if name else None
    if existing is not None and existing.path.exists():
        return existing, continue_run(existing, checked)
    twin = unfinished_twin(checked.home, checked.experiment.digest) if all_runs(checked.home) and not name else None
    if twin is not None:
        click.echo(f"note: run {twin.name} of the same experiment was cut short; --name {twin.name} goes on with it", err=True)
    run = new_run(checked, name)
    return run, submit_run(run, checked.cluster, checked.host)


def follow_to_the_end(run: RunDir, handle: JobHandle, cluster: Cluster, host: PluginHost, as_json: bool) -> int:
    """Follow, record, tell. Gives the run's exit code."""
    try:
        status = follow_run(run, handle, cluster, reporter_for(as_json))
    except KeyboardInterrupt:
        return interrupted(run, handle, cluster)
    finish_run(run, status, host)
    tell(run, status, cluster, as_json)
    return status.shell_exit_code


def tell(run: RunDir, status: JobStatus, cluster: Cluster, as_json: bool) -> None:
    """The end, for people and machines."""
    if status.state is not JobState.SUCCEEDED:
        for line in last_log_lines(run, cluster):
            click.echo(f"  | {line}", err=True)
    click.echo(outcome_text(run, status), err=True)
    if as_json:
        click.echo(json.dumps(last_document(run, status)))


def interrupted(run: RunDir, handle: JobHandle, cluster: Cluster) -> int:
    """Ctrl-C: on a terminal ask what is to become of the job; elsewhere leave it running."""
    if sys.stdin.isatty() and sys.stderr.isatty():
        answer = click.prompt(
            f"\n{run.name} is running. (l)eave it or (s)top it?", type=click.Choice(["l", "s"]), default="l", err=True
        )
        if answer == "s":
            cluster.stop(handle)
            click.echo(f"{run.name}: asked to stop", err=True)
            return 130
    click.echo(f"{run.name} goes on; `launcher wait {run.name}` finds it again", err=True)
    return 130
