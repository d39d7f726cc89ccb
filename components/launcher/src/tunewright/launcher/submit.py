"""Handing a run to its cluster: once, however often a launcher dies on the way, and again where a run goes on."""

from __future__ import annotations

import click

from tunewright.contracts.clusters import Cluster
from tunewright.contracts.datasets import CachedDataset
from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.errors import Unavailable, UsageError
from tunewright.contracts.files import write_json_atomically
from tunewright.contracts.jobs import JobHandle, SubmissionPlan
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import digest_of
from tunewright.contracts.status import JobState, JobStatus
from tunewright.launcher.events import record_event
from tunewright.launcher.prepare import CheckedExperiment, make_job, plan_job, run_files
from tunewright.launcher.run_store import (
    create_run,
    free_name,
    json_bytes,
    locked,
    read_handle,
    read_job,
    read_json,
    read_plan,
)
from tunewright.launcher.states import status_of


def new_run(checked: CheckedExperiment, name: str | None) -> RunDir:
    """Build, prepare, plan, and make the run's directory as a whole. Nothing of a run exists if any of it fails."""
    environment, dataset = prepare(checked)
    while True:
        run = RunDir.of(checked.home, name or free_name(checked.home, checked.experiment.spec.name))
        job = make_job(checked, run, environment, dataset)
        plan = plan_job(checked, job)
        submission = {"submission.json": json_bytes(submission_document(run, 0, plan))}
        if create_run(run, {**run_files(checked, job, environment, dataset, plan), **submission}):
            return run
        if name is not None:  # another launcher has just taken it: theirs is followed, if it is the same
            refuse_another_experiment(run, checked)
            return run


def prepare(checked: CheckedExperiment) -> tuple[EnvironmentRef, CachedDataset]:
    """The dataset and the environment, made where they are not there yet. Says what it is at: it may take minutes.

    The dataset first: what is wrong in its rows is told in seconds, not after the minutes of a build.
    """
    dataset = _prepare_dataset(checked)
    click.echo(f"environment: {checked.environment.kind} {checked.environment.key[:12]}", err=True)
    return checked.build_environment(), dataset


def _prepare_dataset(checked: CheckedExperiment) -> CachedDataset:
    click.echo(f"dataset: {checked.dataset.digest[:12]}", err=True, nl=False)
    try:
        dataset = checked.prepare_dataset()
    except BaseException:
        click.echo("", err=True)  # what went wrong starts on a line of its own
        raise
    counts = (
        f"{count:,} {noun}" for count, noun in ((dataset.rows, "rows"), (dataset.tokens, "tokens")) if count is not None
    )
    drops = (f"{count:,} dropped: {reason}" for reason, count in dataset.dropped.items())
    click.echo("".join(f", {part}" for part in (*counts, *drops)), err=True)
    return dataset


def submission_document(run: RunDir, number: int, plan: SubmissionPlan) -> dict[str, object]:
    """What makes a submission one and the same: written before the cluster hears of it.

    The key tells apart runs of one name in two homes that share a cluster.
    """
    key = f"{run.name}-{number}-{digest_of([str(run.path), number])[:12]}"
    return {"number": number, "key": key, "cluster": plan.cluster, "files": [file.name for file in plan.files]}


def submit_run(run: RunDir, cluster: Cluster, host: PluginHost) -> JobHandle:
    """Send the run's plan, unless the cluster has confirmed it already.

    The key is on disk before: a launcher that dies on the way finds the same job with its next call.
    """
    with locked(run.path / ".submission.lock"):
        return read_handle(run) or _send(run, cluster, host)


def submit_again(run: RunDir, cluster: Cluster, host: PluginHost) -> JobHandle:
    """Send the plan of a run that has ended as a new job, which goes on from the last checkpoint.

    Two launchers at once start one job: the second finds it running.
    """
    with locked(run.path / ".submission.lock"):
        if status_of(run, cluster).state.is_terminal:
            number = int(read_json(run.submission).get("number", 0)) + 1
            # The old record and handle speak of the job that ended. Without a handle the submission is not confirmed,
            # so a crash between these lines only means that the same submission is asked for again.
            run.provenance.unlink(missing_ok=True)
            run.handle.unlink(missing_ok=True)
            write_json_atomically(run.submission, submission_document(run, number, read_plan(run)))
        return read_handle(run) or _send(run, cluster, host)


def _send(run: RunDir, cluster: Cluster, host: PluginHost) -> JobHandle:
    submission, plan = read_json(run.submission), read_plan(run)
    key = str(submission["key"])
    record_event(run, JobStatus(state=JobState.PENDING, message=f"submitting as {key}"), is_new_submission=True)
    try:
        handle = cluster.submit(plan, key)
    except (Unavailable, KeyboardInterrupt):
        click.echo(f"run {run.name} is kept, its job not confirmed; --name {run.name} goes on with it", err=True)
        raise
    write_json_atomically(run.handle, handle.to_document())
    record_event(run, cluster.status([handle])[handle])
    for complaint in host.notify("tunewright_run_submitted", handle=handle, job=read_job(run)):
        click.echo(f"warning: {complaint}", err=True)
    return handle


def continue_run(run: RunDir, checked: CheckedExperiment) -> JobHandle:
    """Go on with a run that is there: follow it if it runs, start it from its last checkpoint if it was cut short.

    Raises UsageError for a run that has succeeded, or that is of another experiment, dataset or code.
    """
    if not run.job.is_file():
        raise UsageError(f"--name {run.name}: {run.path} is there, but it is no run", "choose another name")
    refuse_another_experiment(run, checked)
    status = status_of(run, checked.cluster)
    if status.state is JobState.SUCCEEDED:
        hint = "choose another name, or leave --name out"
        raise UsageError(f"--name {run.name}: this run has succeeded already", hint)
    if not status.state.is_terminal:
        return submit_run(run, checked.cluster, checked.host)
    prepare(checked)
    return submit_again(run, checked.cluster, checked.host)


def refuse_another_experiment(run: RunDir, checked: CheckedExperiment) -> None:
    """Raise UsageError where the run is not what would be launched now."""
    job = read_job(run)
    was_and_is = {
        "experiment": (read_json(run.resolved).get("digest"), checked.experiment.digest),
        "dataset": (job.dataset.digest if job.dataset else None, checked.dataset.digest),
        "environment": (job.environment.key if job.environment else None, checked.environment.key),
    }
    different = [part for part, (was, now) in was_and_is.items() if was != now]
    if different:
        raise UsageError(
            f"--name {run.name}: a run of this name is there, and its {' and '.join(different)} is not the same now",
            f"choose another name; `launcher plan EXPERIMENT --diff {run.name}` shows the difference",
        )
