"""`launcher plan`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click

from tunewright.contracts.costs import CostEstimate
from tunewright.contracts.errors import UsageError
from tunewright.contracts.experiment import ResolvedExperiment
from tunewright.contracts.files import json_text
from tunewright.contracts.jobs import JobSpec, SubmissionPlan
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.stages import stage_run
from tunewright.launcher.commands.options import as_json, experiment_options
from tunewright.launcher.completion import complete_run
from tunewright.launcher.costs import estimate_document, with_estimates
from tunewright.launcher.preflight import joint_report, notes
from tunewright.launcher.prepare import (
    CheckedExperiment,
    ExperimentArguments,
    check_experiments,
    make_job,
    naming_stage,
    plan_job,
    resolved_document,
)
from tunewright.launcher.run_store import find_run, free_name, launch_name


@click.command()
@experiment_options
@click.option(
    "--diff", "other", metavar="RUN", shell_complete=complete_run, help="Show only what differs from what RUN sent."
)
@as_json
def plan(arguments: ExperimentArguments, other: str | None, as_json: bool) -> None:
    """Show what `launch EXPERIMENT` would send, in the cluster's own words.

    Builds nothing, writes nothing, opens no socket. Equal inputs give equal bytes.
    """
    stages = check_experiments(arguments, PluginHost.discover())
    for note in notes(joint_report([one.loaded.stage for one in stages], [one.report for one in stages])):
        click.echo(note, err=True)
    stages = with_estimates(stages)
    if other is not None:
        compared = find_run(stages[0].home, other)
        planned = plan_one(stage_of(compared, stages), arguments.name)
        difference = difference_from(compared, planned.submission, json_text(resolved_document(planned.experiment)))
        document = {"run": planned.job.run, "other": other, "diff": difference}
        click.echo(json_text(document) if as_json else difference, nl=False)
        return
    plans = [plan_one(checked, arguments.name) for checked in stages]
    if as_json:
        click.echo(json_text(document_of(plans, stages[0].pipeline)), nl=False)
    else:
        click.echo("".join(one.text for one in plans), nl=False)


@dataclass(frozen=True)
class PlannedRun:
    """What `launch` would send for one experiment, or for one stage of it."""

    stage: str | None
    experiment: ResolvedExperiment
    job: JobSpec
    submission: SubmissionPlan
    estimate: CostEstimate | None = None

    @property
    def text(self) -> str:
        """The planned files as they are, below the name of the stage where there is one."""
        title = f"====> stage {self.stage}: run {self.job.run} <====\n" if self.stage else ""
        return title + text(self.submission)

    def to_document(self) -> dict[str, object]:
        """The plan and the job it was made of."""
        document: dict[str, object] = {
            "run": self.job.run,
            "cluster": self.submission.cluster,
            "files": {file.name: file.text for file in self.submission.files},
            "job": self.job.to_document(),
        }
        if self.estimate is not None:
            document["estimate"] = estimate_document(self.estimate)
        return document if self.stage is None else {"stage": self.stage, **document}


def plan_one(checked: CheckedExperiment, name: str | None) -> PlannedRun:
    """What would be sent for `checked`. Of a later stage the model is named as the stage before will leave it."""
    chosen = checked.run_name or name or free_name(checked.home, checked.experiment.spec.name)
    job = make_job(checked, RunDir.of(checked.home, chosen), checked.planned)
    with naming_stage(checked.loaded):
        submission = plan_job(checked, job)
    stage = checked.loaded.stage
    return PlannedRun(stage.name if stage else None, checked.experiment, job, submission, checked.estimate)


def document_of(plans: Sequence[PlannedRun], pipeline: str | None) -> dict[str, object]:
    """The only plan, or those of all stages in order."""
    if pipeline is None:
        return plans[0].to_document()
    return {"pipeline": pipeline, "stages": [one.to_document() for one in plans]}


def stage_of(run: RunDir, stages: Sequence[CheckedExperiment]) -> CheckedExperiment:
    """The stage that `run` is compared with: by the end of its name. Raises UsageError where it is none of them."""
    if stages[0].pipeline is None:
        return stages[0]
    names = [one.loaded.stage.name for one in stages if one.loaded.stage]
    for name, checked in zip(names, stages, strict=True):
        if run.name == stage_run(launch_name(run), name):
            return checked
    listed = ", ".join(f"`{name}`" for name in names)
    raise UsageError(f"--diff {run.name}: must be the run of a stage of this experiment: {listed}")


def text(submission: SubmissionPlan) -> str:
    """The planned files as they are; a title before each where there are several."""
    if len(submission.files) == 1:
        return _ended(submission.files[0].text)
    return "".join(f"==> {file.name} <==\n{_ended(file.text)}" for file in submission.files)


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
