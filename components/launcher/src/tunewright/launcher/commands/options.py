"""Options and arguments that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tunewright.contracts.experiment_file import find_home, find_project_root
from tunewright.launcher.prepare import ExperimentArguments

Function = TypeVar("Function", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for machines.")


def experiment_options(function: Function) -> Function:
    """EXPERIMENT and what goes with it, for `launch` and `plan`."""
    for decorate in (
        click.option("--allow-dirty", is_flag=True, help="Take a tree that differs from its commit; keep the patch in the run."),
        click.option("--name", metavar="RUN", help="The run's name. One that exists is gone on with."),
        click.option("--set", "assignments", metavar="A.B=VALUE", multiple=True, help="Set a value of the experiment; may be repeated."),
        click.option("--cluster", metavar="NAME", help="Where to run it, instead of `cluster.name`."),
        click.argument("experiment", type=click.Path(path_type=Path)),
    ):  # fmt: skip
        function = decorate(function)
    return function


def experiment_arguments(
    experiment: Path, cluster: str | None, assignments: tuple[str, ...], name: str | None, allow_dirty: bool
) -> ExperimentArguments:
    """The options as one value."""
    import re

    from tunewright.contracts.errors import UsageError
    from tunewright.contracts.experiment import NAME_PATTERN

    if name is not None and not re.match(NAME_PATTERN, name):
        raise UsageError(f"--name {name}: must be letters, digits, `.`, `_` and `-`, at most 63")
    return ExperimentArguments(experiment, assignments, cluster, name, allow_dirty)


def current_home() -> Path:
    """`$TUNEWRIGHT_HOME`, or that of the project around the working directory."""
    return find_home(find_project_root(Path.cwd() / "experiment.toml"))


def print_json(document: Any) -> None:
    """One document, indented."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
