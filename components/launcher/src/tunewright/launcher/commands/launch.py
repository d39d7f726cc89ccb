"""`launcher launch`."""

from __future__ import annotations

import click

from tunewright.contracts.plugins import PluginHost
from tunewright.launcher.commands.options import as_json, experiment_options
from tunewright.launcher.costs import estimate_events, with_estimates
from tunewright.launcher.finish import last_document
from tunewright.launcher.launching import EXIT_INTERRUPTED, follow_to_the_end, start, tell
from tunewright.launcher.pipeline import detach_stages, launch_stages
from tunewright.launcher.preflight import joint_report, notes
from tunewright.launcher.prepare import CheckedExperiment, ExperimentArguments, check_experiments
from tunewright.launcher.progress import json_line
from tunewright.launcher.states import status_of


@click.command()
@experiment_options
@click.option("--detach", is_flag=True, help="Return once the cluster has accepted the job. Stages: go on without us.")
@as_json
def launch(arguments: ExperimentArguments, detach: bool, as_json: bool) -> int:
    """Launch EXPERIMENT, follow it to its end, and record it.

    Exits with the run's own exit code. Killing the launcher leaves the job alone: `status`, `logs` and `wait` find it
    again. A RUN that exists and was cut short goes on from its last checkpoint.

    The stages of an experiment that has some run one after another, each with the model of the one before.
    """
    host = PluginHost.discover()
    stages = check_experiments(arguments, host)
    for note in notes(joint_report([one.loaded.stage for one in stages], [one.report for one in stages])):
        click.echo(note, err=True)
    stages = with_estimates(stages)
    for estimate in estimate_events(stages) if as_json else ():
        click.echo(json_line(estimate))
    if stages[0].pipeline is None:
        return _launch_one(stages[0], arguments.name, detach, as_json)
    if detach:
        return detach_stages(stages, arguments.name is not None, as_json)
    return launch_stages(stages, arguments.name is not None, as_json)


def _launch_one(checked: CheckedExperiment, name: str | None, detach: bool, as_json: bool) -> int:
    run, handle = start(checked, name)
    click.echo(f"run {run.name}: {run.path}", err=True)
    if detach:
        status = status_of(run, checked.cluster)
        click.echo(json_line(last_document(run, status)) if as_json else run.name)
        return 0
    ended = follow_to_the_end(run, handle, checked.cluster, checked.host, as_json)
    if ended is None:
        return EXIT_INTERRUPTED
    tell(run, ended, checked.cluster, as_json)
    return ended.shell_exit_code
