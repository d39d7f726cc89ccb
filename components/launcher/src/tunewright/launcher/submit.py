"""Handing a run to its cluster: once, however often a launcher dies on the way."""

from __future__ import annotations

from pathlib import Path

from tunewright.contracts.clusters import Cluster
from tunewright.contracts.errors import UsageError
from tunewright.contracts.files import write_json_atomically
from tunewright.contracts.jobs import JobHandle, PlannedFile, SubmissionPlan
from tunewright.contracts.plugins import PluginHost, load_entry
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import digest_of
from tunewright.contracts.status import JobState, JobStatus
from tunewright.launcher.events import record_event
from tunewright.launcher.prepare import CheckedExperiment, make_job, plan_job, planned_documents
from tunewright.launcher.run_store import all_runs, create_run, free_name, read_handle, read_job, read_json


def new_run(checked: CheckedExperiment, name: str | None) -> RunDir:
    """Build, prepare, plan, and make the run's directory as a whole. Nothing of a run exists if any of it fails."""
    environment, dataset = checked.build_environment(), checked.prepare_dataset()
    while True:
        run = RunDir.of(checked.home, name or free_name(checked.home, checked.experiment.spec.name))
        job = make_job(checked, run, environment, dataset)
        documents, texts = planned_documents(checked, job, environment, dataset)
        if create_run(run, documents, texts, plan_job(checked, job)):
            return run
        if name is not None:  # another launcher took the name a moment ago
            raise UsageError(f"--name {name}: another launcher has just taken this name")


def submit_run(run: RunDir, cluster: Cluster, host: PluginHost, again: bool = False) -> JobHandle:
    """Send the run's plan. With `again`, as a new job that goes on from the last checkpoint.

    The key is on disk before the cluster hears of the job: a launcher that dies in between, or after, finds the
    same job with the next call.
    """
    handle = read_handle(run)
    if handle is not None and not again:
        return handle
    key = _submission_key(run, again)
    handle = cluster.submit(read_plan(run), key)
    write_json_atomically(run.handle, handle.to_document())
    record_event(run, cluster.status([handle])[handle])
    for complaint in host.notify("tunewright_run_submitted", handle=handle, job=read_job(run)):
        import click

        click.echo(complaint, err=True)
    return handle


def _submission_key(run: RunDir, again: bool) -> str:
    number = int(read_json(run.submission).get("number", 0))
    if again:
        number += 1
        # The old record and handle speak of the job that ended.
        run.provenance.unlink(missing_ok=True)
        run.handle.unlink(missing_ok=True)
    key = f"{run.name}-{number}-{digest_of([str(run.path), number])[:12]}"
    write_json_atomically(run.submission, {"number": number, "key": key})
    return key


def read_plan(run: RunDir) -> SubmissionPlan:
    """The run's plan, as it was made. The first file is the main one: it was written first."""
    files = sorted(run.plan.iterdir(), key=lambda path: (path.stat().st_mtime_ns, path.name))
    planned = tuple(PlannedFile(name=path.name, text=path.read_text()) for path in files if not path.name.startswith("."))
    job = read_job(run)
    assert job.experiment is not None
    return SubmissionPlan(cluster=job.experiment.cluster.name, run=run.name, files=planned)


def cluster_of(run: RunDir, host: PluginHost) -> Cluster:
    """The cluster the run was planned for. Raises UnknownPlugin where its plugin is not installed any more."""
    job = read_job(run)
    assert job.experiment is not None
    name = job.experiment.cluster.name
    cluster: Cluster = load_entry(host.clusters.get(name, "cluster.name").entry, host.clusters.owner_of(name))()
    return cluster


def status_of(run: RunDir, cluster: Cluster) -> JobStatus:
    """The run's state now, kept in its events. PENDING before the cluster has confirmed it."""
    handle = read_handle(run)
    if handle is None:
        hint = f"not submitted yet; `launch EXPERIMENT --name {run.name}` goes on"
        return JobStatus(state=JobState.PENDING, message=hint)
    status = cluster.status([handle])[handle]
    record_event(run, status)
    return status


def continue_run(run: RunDir, checked: CheckedExperiment) -> JobHandle:
    """Go on with a run that is there: follow it if it runs, start it from its last checkpoint if it was cut short.

    Raises UsageError for a run that has succeeded, or that is of another experiment, dataset or code.
    """
    _refuse_another_experiment(run, checked)
    status = status_of(run, checked.cluster)
    if status.state is JobState.SUCCEEDED:
        raise UsageError(f"--name {run.name}: this run has succeeded already", "choose another name, or leave --name out")
    if status.state.is_terminal:
        checked.build_environment()
        checked.prepare_dataset()
    return submit_run(run, checked.cluster, checked.host, again=status.state.is_terminal)


def _refuse_another_experiment(run: RunDir, checked: CheckedExperiment) -> None:
    job = read_job(run)
    was = {
        "experiment": read_json(run.resolved).get("digest"),
        "dataset": job.dataset.digest if job.dataset else None,
        "environment": job.environment.key if job.environment else None,
    }
    now = {
        "experiment": checked.experiment.digest,
        "dataset": checked.dataset.digest,
        "environment": checked.environment.key,
    }
    different = [part for part in was if was[part] != now[part]]
    if different:
        raise UsageError(
            f"--name {run.name}: a run of this name exists, and its {' and '.join(different)} is not the same now",
            "a run goes on only as what it was; choose another name",
        )


def unfinished_twin(home: Path, digest: str) -> RunDir | None:
    """The newest run of the same experiment that has no record of success and no job running: it could be continued."""
    for run in reversed(all_runs(home)):
        if read_json(run.resolved).get("digest") == digest:
            state = read_json(run.provenance).get("outcome", {}).get("state")
            return run if state not in (None, JobState.SUCCEEDED) else None
    return None
