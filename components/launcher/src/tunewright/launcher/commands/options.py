"""Options and arguments that several commands share."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tunewright.contracts.errors import UsageError
from tunewright.contracts.experiment import NAME_PATTERN
from tunewright.launcher.completion import (
    complete_assignment,
    complete_cluster,
    complete_experiment,
    complete_record,
    complete_run,
    complete_run_or_batch,
    current_home,
)
from tunewright.launcher.prepare import ExperimentArguments

__all__ = ["current_home"]

as_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for machines.")
cluster_option = click.option(
    "--cluster",
    metavar="NAME",
    help="Where to run it, instead of `cluster.name`: a cluster, or a profile of your configuration.",
    shell_complete=complete_cluster,
)


def experiment_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """EXPERIMENT and what goes with it, for `launch` and `plan`. The function gets them as one `arguments`."""

    @click.argument("experiment", type=click.Path(path_type=Path), shell_complete=complete_experiment)
    @cluster_option
    @click.option(
        "--set",
        "assignments",
        metavar="A.B=VALUE",
        multiple=True,
        help="Set a value; may be repeated.",
        shell_complete=complete_assignment,
    )
    @click.option(
        "--name", metavar="RUN", callback=check_run_name, help="The run's name. One that is there is gone on with."
    )
    @click.option("--allow-dirty", is_flag=True, help="Take a tree that differs from its commit; keep the patch.")
    @functools.wraps(function)
    def gathered(experiment: Path, **options: Any) -> Any:
        own = {key: options.pop(key) for key in ("cluster", "assignments", "name", "allow_dirty")}
        return function(arguments=ExperimentArguments(experiment, **own), **options)

    return gathered


def check_run_name(_context: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    """`--name` as it was given. Raises UsageError for what no run can be called."""
    if name is not None and not re.fullmatch(NAME_PATTERN, name):
        hint = "letters, digits, `.`, `_` and `-`, at most 63, a letter or digit first"
        raise UsageError(f"--name {name!r}: is no name for a run", hint)
    return name


run_argument = click.argument("run", metavar="RUN", shell_complete=complete_run)
run_or_batch_argument = click.argument("run", metavar="RUN", shell_complete=complete_run_or_batch)
record_argument = click.argument("run", metavar="RUN", shell_complete=complete_record)


def print_json(document: Any) -> None:
    """One document, indented."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
