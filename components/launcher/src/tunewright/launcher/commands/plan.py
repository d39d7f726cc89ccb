"""`launcher plan`."""

from __future__ import annotations

from pathlib import Path

import click

from tunewright.contracts.files import json_text
from tunewright.contracts.jobs import JobSpec, SubmissionPlan
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.rundir import RunDir
from tunewright.launcher.commands.options import as_json, experiment_arguments, experiment_options
from tunewright.launcher.prepare import CheckedExperiment, check_experiment, make_job, plan_job, say_notes
from tunewright.launcher.run_store import find_run, free_name


@click.command()
@experiment_options
@click.option("--diff", "other", metavar="RUN", help="Show only what differs from what RUN sent.")
@as_json
def plan(
    experiment: Path,
    cluster: str | None,
    assignments: tuple[str, ...],
    name: str | None,
    allow_dirty: bool,
    other: str | None,
    as_json: bool,
) -> None:
    """Show what `launch EXPERIMENT` would send, in the cluster's own words.

    Builds nothing, writes nothing, opens no socket. Equal inputs give equal bytes.
    """
    arguments = experiment_arguments(experiment, cluster, assignments, name, allow_dirty)
    checked = check_experiment(arguments, PluginHost.discover())
    for note in say_notes(checked.report):
        click.echo(note, err=True)
    run = RunDir.of(checked.home, name or free_name(checked.home, checked.experiment.spec.name))
    job = make_job(checked, run, checked.environment, checked.dataset)
    submission = plan_job(checked, job)
    if other is not None:
        click.echo(difference(find_run(checked.home, other), checked, submission), nl=False)
    elif as_json:
        click.echo(json_text(document(job, submission)), nl=False)
    else:
        click.echo(text(submission), nl=False)


def text(submission: SubmissionPlan) -> str:
    """The planned files as they are; a title before each where there are several."""
    if len(submission.files) == 1:
        return _ended(submission.files[0].text)
    return "".join(f"==> {file.name} <==\n{_ended(file.text)}" for file in submission.files)


def document(job: JobSpec, submission: SubmissionPlan) -> dict[str, object]:
    """The plan and the job it was made of."""
    return {
        "run": job.run,
        "cluster": submission.cluster,
        "files": {file.name: file.text for file in submission.files},
        "job": job.to_document(),
    }


def difference(run: RunDir, checked: CheckedExperiment, submission: SubmissionPlan) -> str:
    """A unified diff from what `run` sent, and from its resolved experiment, to now."""
    import difflib

    now = {f"plan/{file.name}": file.text for file in submission.files}
    now["resolved.json"] = json_text({**checked.experiment.spec.to_document(), "digest": checked.experiment.digest})
    then = {name: (run.path / name).read_text() if (run.path / name).is_file() else "" for name in now}
    return "".join(
        line
        for name in now
        for line in difflib.unified_diff(
            _ended(then[name]).splitlines(keepends=True), _ended(now[name]).splitlines(keepends=True), f"{run.name}/{name}", f"now/{name}"
        )
    )  # fmt: skip


def _ended(content: str) -> str:
    return content if content.endswith("\n") or not content else content + "\n"
