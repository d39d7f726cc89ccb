"""`launcher plan`."""

from __future__ import annotations

import click

from tunewright.contracts.files import json_text
from tunewright.contracts.jobs import JobSpec, SubmissionPlan
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.rundir import RunDir
from tunewright.launcher.commands.options import as_json, experiment_options
from tunewright.launcher.preflight import notes
from tunewright.launcher.prepare import ExperimentArguments, check_experiment, make_job, plan_job, resolved_document
from tunewright.launcher.run_store import find_run, free_name


@click.command()
@experiment_options
@click.option("--diff", "other", metavar="RUN", help="Show only what differs from what RUN sent.")
@as_json
def plan(arguments: ExperimentArguments, other: str | None, as_json: bool) -> None:
    """Show what `launch EXPERIMENT` would send, in the cluster's own words.

    Builds nothing, writes nothing, opens no socket. Equal inputs give equal bytes.
    """
    checked = check_experiment(arguments, PluginHost.discover())
    for note in notes(checked.report):
        click.echo(note, err=True)
    compared = find_run(checked.home, other) if other is not None else None
    run = RunDir.of(checked.home, arguments.name or free_name(checked.home, checked.experiment.spec.name))
    job = make_job(checked, run, checked.environment, checked.dataset)
    submission = plan_job(checked, job)
    if compared is not None:
        difference = difference_from(compared, submission, json_text(resolved_document(checked.experiment)))
        click.echo(json_text({"run": job.run, "other": other, "diff": difference}) if as_json else difference, nl=False)
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


def difference_from(run: RunDir, submission: SubmissionPlan, resolved: str) -> str:
    """A unified diff from what `run` sent, and from its resolved experiment, to now. Empty where nothing differs."""
    import difflib

    now = {"resolved.json": resolved} | {f"plan/{file.name}": file.text for file in submission.files}
    then = {f"plan/{path.name}": path.read_text() for path in sorted(run.plan.glob("[!.]*"))}
    if run.resolved.is_file():
        then["resolved.json"] = run.resolved.read_text()
    lines: list[str] = []
    for name in dict.fromkeys((*now, *then)):
        old, new = (_ended(files.get(name, "")).splitlines(keepends=True) for files in (then, now))
        lines += difflib.unified_diff(old, new, f"{run.name}/{name}", f"now/{name}")
    return "".join(lines)


def _ended(content: str) -> str:
    return content if content.endswith("\n") or not content else content + "\n"
