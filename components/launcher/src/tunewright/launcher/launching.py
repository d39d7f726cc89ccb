"""From a checked experiment to the end of its run: started or gone on with, followed, recorded, told."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from tunewright.contracts.clusters import Cluster
from tunewright.contracts.jobs import JobHandle
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobState, JobStatus
from tunewright.launcher.events import has_ended
from tunewright.launcher.finish import finish_run, last_document, last_log_lines, outcome_text
from tunewright.launcher.follow import follow_run
from tunewright.launcher.prepare import CheckedExperiment
from tunewright.launcher.progress import QuietReporter, json_line, reporter_for
from tunewright.launcher.questions import Prepared
from tunewright.launcher.run_store import all_runs, go_on_words, last_line, read_json
from tunewright.launcher.submit import continue_run, new_run, submit_run

EXIT_INTERRUPTED = 130
STOP_TIMEOUT_SECONDS = 120.0


def start(checked: CheckedExperiment, name: str | None, prepared: Prepared | None = None) -> tuple[RunDir, JobHandle]:
    """A new run, or the one called `name` gone on with. What is not `prepared` yet is made first."""
    existing = RunDir.of(checked.home, name) if name else None
    if existing is not None and existing.path.exists():
        return existing, continue_run(existing, checked, prepared)
    twin = None if name else unfinished_twin(checked.home, checked.experiment.digest)
    if twin is not None:
        state = str(last_line(twin.events).get("state", JobState.PENDING)).lower()
        click.echo(f"note: run {twin.name} of the same experiment has not succeeded ({state}); ", err=True, nl=False)
        click.echo(f"{go_on_words(twin)} goes on with it", err=True)
    run = new_run(checked, name, prepared)
    return run, submit_run(run, checked.cluster, checked.host)


def unfinished_twin(home: Path, digest: str) -> RunDir | None:
    """The newest run of the same experiment, unless it has succeeded: it could be gone on with."""
    for run in reversed(all_runs(home)):
        if read_json(run.resolved).get("digest") == digest:
            event = last_line(run.events)
            outcome = event if has_ended(event) else read_json(run.provenance).get("outcome", {})
            return None if outcome.get("state") == JobState.SUCCEEDED else run
    return None


def follow_to_the_end(
    run: RunDir, handle: JobHandle, cluster: Cluster, host: PluginHost, as_json: bool
) -> JobStatus | None:
    """Follow and record. Gives how the run ended, or None where the user interrupted us."""
    with ended_by_sigterm():
        try:
            status = follow_run(run, handle, cluster, reporter_for(as_json))
        except KeyboardInterrupt:
            interrupted(run, handle, cluster, host)
            return None
    finish_run(run, status, host)
    return status


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Inside, SIGTERM ends the launcher in good order."""
    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminated(number: int, _frame: FrameType | None) -> None:
    """SIGTERM ends the launcher, not the job. An exception, so that a terminal gets its cursor back."""
    raise SystemExit(128 + number)


def tell(run: RunDir, status: JobStatus, cluster: Cluster, as_json: bool) -> None:
    """The end, for people or for machines: what came of the run is data, the end of its log a message."""
    tell_outcome(run, status, cluster, as_json)
    if as_json:
        click.echo(json_line(last_document(run, status)))


def tell_outcome(run: RunDir, status: JobStatus, cluster: Cluster, as_json: bool) -> None:
    """The end, for people."""
    if status.state is not JobState.SUCCEEDED:
        for line in last_log_lines(run, cluster):
            click.echo(f"  | {line}", err=True)
    click.echo(outcome_text(run, status), err=as_json)


def interrupted(run: RunDir, handle: JobHandle, cluster: Cluster, host: PluginHost) -> None:
    """Ctrl-C: on a terminal ask what is to become of the job; elsewhere leave it running."""
    if sys.stdin.isatty() and sys.stderr.isatty():
        question = f"\n{run.name} is running. (l)eave it or (s)top it?"
        answer = click.prompt(question, type=click.Choice(["l", "s"]), default="l", err=True)
        if answer == "s":
            cluster.stop(handle)
            status = follow_run(run, handle, cluster, QuietReporter(), STOP_TIMEOUT_SECONDS)
            finish_run(run, status, host)
            click.echo(outcome_text(run, status), err=True)
            return
    click.echo(f"{run.name} goes on; `launcher wait {run.name}` finds it again", err=True)
