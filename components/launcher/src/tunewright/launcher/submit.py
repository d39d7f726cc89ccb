"""Handing a run to its cluster: once, however often a launcher dies on the way, and again where a run goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import click

from tunewright.contracts.checkpoints import continuation_digest
from tunewright.contracts.clusters import Cluster, DependsCluster
from tunewright.contracts.datasets import CachedDataset
from tunewright.contracts.errors import Unavailable, UsageError
from tunewright.contracts.experiment import ExperimentSpec
from tunewright.contracts.file_locks import held
from tunewright.contracts.files import write_bytes_atomically, write_json_atomically
from tunewright.contracts.jobs import JobHandle, JobSpec, ModelReference, SubmissionPlan
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import digest_of
from tunewright.contracts.status import JobState, JobStatus
from tunewright.launcher.events import record_event
from tunewright.launcher.prepare import CheckedExperiment, make_job, plan_job, run_files
from tunewright.launcher.questions import Prepared
from tunewright.launcher.run_store import (
    create_run,
    free_name,
    go_on_words,
    json_bytes,
    read_handle,
    read_job,
    read_json,
    read_plan,
)
from tunewright.launcher.states import WAITING, status_of

Made = TypeVar("Made", bound=CachedDataset | None)


def new_run(checked: CheckedExperiment, name: str | None, prepared: Prepared | None = None) -> RunDir:
    """Build, prepare, plan, and make the run's directory as a whole. Nothing of a run exists if any of it fails."""
    prepared = prepared or prepare(checked)
    while True:
        run = RunDir.of(checked.home, name or free_name(checked.home, checked.experiment.spec.name))
        job = make_job(checked, run, prepared)
        if write_run(run, checked, prepared, job, plan_job(checked, job), belonging_of(checked)):
            return run
        if name is not None:  # another launcher has just taken it: theirs is followed, if it is the same
            refuse_another_experiment(run, checked)
            return run


def write_run(
    run: RunDir,
    checked: CheckedExperiment,
    prepared: Prepared,
    job: JobSpec,
    plan: SubmissionPlan,
    belonging: Mapping[str, str],
) -> bool:
    """Make the directory of a run that is planned. False where another launcher has just taken its name."""
    submission = {"submission.json": json_bytes(submission_document(run, 0, plan, belonging))}
    return create_run(run, {**run_files(checked, job, prepared, plan), **submission})


def belonging_of(checked: CheckedExperiment) -> dict[str, str]:
    """What a stage's run keeps of the pipeline it is of."""
    return {} if checked.pipeline is None else {"pipeline": checked.pipeline}


def prepare(checked: CheckedExperiment) -> Prepared:
    """The datasets and the environment, made where they are not there yet. Says what it is at: it may take minutes.

    The datasets first: what is wrong in their rows is told in seconds, not after the minutes of a build.
    """
    planned, questions = checked.planned, checked.questions
    dataset = _told("dataset", planned.dataset, questions.dataset)
    evaluation = None
    if planned.evaluation_dataset is not None:
        evaluation = _told("evaluation dataset", planned.evaluation_dataset, questions.evaluation_dataset)
    click.echo(f"environment: {planned.environment.kind} {planned.environment.key[:12]}", err=True)
    return Prepared(questions.environment(), dataset, evaluation)


def _told(what: str, planned: CachedDataset, make: Callable[[], Made]) -> Made:
    click.echo(f"{what}: {planned.digest[:12]}", err=True, nl=False)
    try:
        dataset = make()
    except BaseException:
        click.echo("", err=True)  # what went wrong starts on a line of its own
        raise
    click.echo(_counts(dataset) if dataset is not None else "", err=True)
    return dataset


def _counts(dataset: CachedDataset) -> str:
    counts = (
        f"{count:,} {noun}" for count, noun in ((dataset.rows, "rows"), (dataset.tokens, "tokens")) if count is not None
    )
    drops = (f"{count:,} dropped: {reason}" for reason, count in dataset.dropped.items())
    return "".join(f", {part}" for part in (*counts, *drops))


def submission_document(
    run: RunDir, number: int, plan: SubmissionPlan, belonging: Mapping[str, str]
) -> dict[str, object]:
    """What makes a submission one and the same: written before the cluster hears of it.

    The key tells apart runs of one name in two homes that share a cluster. A run that is one of several also keeps the
    name of their `pipeline` or `sweep`.
    """
    key = f"{run.name}-{number}-{digest_of([str(run.path), number])[:12]}"
    files = [file.name for file in plan.files]
    return {"number": number, "key": key, "cluster": plan.cluster, "files": files, **belonging}


def submit_run(run: RunDir, cluster: Cluster, host: PluginHost, after: Sequence[JobHandle] = ()) -> JobHandle:
    """Send the run's plan, unless the cluster has confirmed it already. With `after` it starts once those succeeded.

    The key is on disk before: a launcher that dies on the way finds the same job with its next call.
    """
    with held(run.path / ".submission.lock"):
        return read_handle(run) or _send(run, cluster, host, after)


def submit_again(
    run: RunDir, cluster: Cluster, host: PluginHost, make_plan: Callable[[], SubmissionPlan] | None = None
) -> JobHandle:
    """Send the plan of a run that has ended as a new job, which goes on from the last checkpoint.

    `make_plan` makes a new one, where it goes on with other settings. Two launchers at once start one job: the second
    finds it running.
    """
    with held(run.path / ".submission.lock"):
        _reset(run, cluster, make_plan)
        return read_handle(run) or _send(run, cluster, host)


def reset_run(run: RunDir, cluster: Cluster, make_plan: Callable[[], SubmissionPlan] | None = None) -> None:
    """Make a run that has ended ready to be sent again, by whoever comes first. Any other is left as it is."""
    with held(run.path / ".submission.lock"):
        if _reset(run, cluster, make_plan):
            record_event(run, JobStatus(state=JobState.PENDING, message=WAITING), is_new_submission=True)


def _reset(run: RunDir, cluster: Cluster, make_plan: Callable[[], SubmissionPlan] | None) -> bool:
    state = status_of(run, cluster).state
    if not state.is_terminal or state is JobState.SUCCEEDED:  # it may have come to its end just now
        return False
    plan = make_plan() if make_plan else read_plan(run)
    last = read_json(run.submission)
    belonging: dict[str, str] = {key: str(last[key]) for key in ("pipeline", "sweep") if key in last}
    # The old record and handle speak of the job that ended. Without a handle the submission is not confirmed,
    # so a crash between these lines only means that the same submission is asked for again.
    run.provenance.unlink(missing_ok=True)
    run.handle.unlink(missing_ok=True)
    number = int(last.get("number", 0)) + 1
    write_json_atomically(run.submission, submission_document(run, number, plan, belonging))
    return True


def _send(run: RunDir, cluster: Cluster, host: PluginHost, after: Sequence[JobHandle] = ()) -> JobHandle:
    submission, plan = read_json(run.submission), read_plan(run)
    key = str(submission["key"])
    record_event(run, JobStatus(state=JobState.PENDING, message=f"submitting as {key}"), is_new_submission=True)
    try:
        if after:
            assert isinstance(cluster, DependsCluster), "its capabilities were looked at"
            handle = cluster.submit_after(plan, key, after)
        else:
            handle = cluster.submit(plan, key)
    except (Unavailable, KeyboardInterrupt):
        click.echo(f"run {run.name} is kept, its job not confirmed; {go_on_words(run)} goes on with it", err=True)
        raise
    write_json_atomically(run.handle, handle.to_document())
    record_event(run, cluster.status([handle])[handle])
    tell_submitted(run, handle, host)
    return handle


def tell_submitted(run: RunDir, handle: JobHandle, host: PluginHost) -> None:
    """Tell the plugins that listen."""
    for complaint in host.notify("tunewright_run_submitted", handle=handle, job=read_job(run)):
        click.echo(f"warning: {complaint}", err=True)


def continue_run(run: RunDir, checked: CheckedExperiment, prepared: Prepared | None = None) -> JobHandle:
    """Go on with a run that is there: follow it if it runs, start it from its last checkpoint if it was cut short.

    Raises UsageError for a run that has succeeded, or that is of another experiment, dataset or code.
    """
    refuse_another_experiment(run, checked)
    status = status_of(run, checked.cluster)
    if status.state is JobState.SUCCEEDED:
        hint = "choose another name, or leave --name out"
        raise UsageError(f"--name {run.name}: this run has succeeded already", hint)
    is_changed = read_json(run.resolved).get("digest") != checked.experiment.digest
    if not status.state.is_terminal:
        if is_changed:
            words = f"--name {run.name}: this run is {status.state.lower()}, with other settings than these"
            raise UsageError(words, f"`launcher stop {run.name}` first; then it goes on with these")
        return submit_run(run, checked.cluster, checked.host)
    prepared = prepared or prepare(checked)
    if not is_changed:
        return submit_again(run, checked.cluster, checked.host)
    click.echo(f"note: run {run.name} goes on with other settings than it began with", err=True)
    return submit_again(run, checked.cluster, checked.host, lambda: rewrite_run(run, checked, prepared))


def rewrite_run(run: RunDir, checked: CheckedExperiment, prepared: Prepared) -> SubmissionPlan:
    """Give a run that has ended the settings of `checked`: its files, and its new plan."""
    job = make_job(checked, run, prepared)
    plan = plan_job(checked, job)
    files = run_files(checked, job, prepared, plan)
    # Last the one that says which settings it has: a launcher that dies before writes all of them once more.
    for name in sorted(files, key=lambda name: name == "resolved.json"):
        write_bytes_atomically(run.path / name, files[name])
    return plan


def refuse_another_experiment(run: RunDir, checked: CheckedExperiment, batch: str | None = None) -> None:
    """Raise UsageError where there is no run, or it is not what would be launched now.

    What says where and how it runs (`[cluster]`, how processes share the work, trackers) may be another. `batch` is the
    name that was given, where the run is one of several.
    """
    name = batch or checked.pipeline or run.name
    if not run.job.is_file():
        raise UsageError(f"--name {name}: {run.path} is there, but it is no run", "choose another name")
    job, planned = read_job(run), checked.planned
    was_and_is = {
        "experiment": (_identity(job.experiment), _identity(checked.experiment.spec)),
        "model": _digests(job.model, checked.model),
        "dataset": (job.dataset.digest if job.dataset else None, planned.dataset.digest),
        "evaluation dataset": (
            job.evaluation_dataset.digest if job.evaluation_dataset else None,
            planned.evaluation_dataset.digest if planned.evaluation_dataset else None,
        ),
        "environment": (job.environment.key if job.environment else None, planned.environment.key),
    }
    different = [part for part, (was, now) in was_and_is.items() if was != now]
    if different:
        raise UsageError(
            f"--name {name}: run {run.name} is there, and its {' and '.join(different)} is not the same now",
            f"choose another name; `launcher plan EXPERIMENT --diff {run.name}` shows the difference",
        )


def _identity(spec: ExperimentSpec | None) -> tuple[str, str] | None:
    """What a run keeps when it goes on: all that decides what is computed, and the cluster that knows its job."""
    return None if spec is None else (continuation_digest(spec), spec.cluster.name)


def _digests(was: ModelReference | None, now: ModelReference) -> tuple[str | None, str | None]:
    """Those of the models, where both are known: a hub id has none, nor has one that an earlier stage will leave."""
    known = was is not None and was.sha256 is not None and now.sha256 is not None
    return (was.sha256, now.sha256) if known and was is not None else (None, None)
