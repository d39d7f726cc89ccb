"""`launcher sweep`."""

from __future__ import annotations

import click

from tunewright.contracts.plugins import PluginHost
from tunewright.launcher.commands.options import as_json, experiment_options
from tunewright.launcher.costs import with_estimates
from tunewright.launcher.grid import parse_grid
from tunewright.launcher.preflight import notes
from tunewright.launcher.prepare import ExperimentArguments
from tunewright.launcher.sweep import check_sweep, joint_point_report
from tunewright.launcher.sweeping import launch_sweep, make_batch


@click.command()
@experiment_options
@click.option(
    "--grid", "grid", metavar="A.B=V1,V2", multiple=True, help="Values to try, as --set takes them; may be repeated."
)
@click.option("--at-most", type=click.IntRange(min=1), metavar="N", help="How many run at a time.")
@click.option("--detach", is_flag=True, help="Return once what may run is started.")
@as_json
def sweep(
    arguments: ExperimentArguments, grid: tuple[str, ...], at_most: int | None, detach: bool, as_json: bool
) -> int:
    """Run EXPERIMENT once for each point of a grid, and compare what came of it.

    Every combination of the --grid values is a run of its own, called RUN-1, RUN-2, ... All of them are checked, then
    prepared, then sent, as one array where the cluster takes them so. Exits with 0 where all succeeded, else with the
    exit code of the first that did not. Killing the launcher leaves the jobs alone: --name goes on with the sweep.
    """
    axes = parse_grid(grid)
    points = check_sweep(arguments, axes, PluginHost.discover())
    report = joint_point_report([one.choice for one in points], [one.checked.report for one in points])
    for note in notes(report):
        click.echo(note, err=True)
    with_estimates((points[0].checked,))
    return launch_sweep(points, make_batch(points, axes, arguments.name, at_most), detach, as_json)
