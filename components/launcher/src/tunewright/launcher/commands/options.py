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
from tunewright.contracts.experiment_file import find_home, find_project_root
from tunewright.launcher.prepare import ExperimentArguments
from tunewright.launcher.run_store import all_runs

as_json = click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for machines.")


def experiment_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """EXPERIMENT and what goes with it, for `launch` and `plan`. The function gets them as one `arguments`."""

    @click.argument("experiment", type=click.Path(path_type=Path))
    @click.option("--cluster", metavar="NAME", help="Where to run it, instead of `cluster.name`.")
    @click.option("--set", "assignments", metavar="A.B=VALUE", multiple=True, help="Set a value; may be repeated.")
    @click.option(
        "--name", metavar="RUN", callback=_run_name, help="The run's name. One that is there is gone on with."
    )
    @click.option("--allow-dirty", is_flag=True, help="Take a tree that differs from its commit; keep the patch.")
    @functools.wraps(function)
    def gathered(experiment: Path, **options: Any) -> Any:
        own = {key: options.pop(key) for key in ("cluster", "assignments", "name", "allow_dirty")}
        return function(arguments=ExperimentArguments(experiment, **own), **options)

    return gathered


def _run_name(_context: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    if name is not None and not re.fullmatch(NAME_PATTERN, name):
        hint = "letters, digits, `.`, `_` and `-`, at most 63, a letter or digit first"
        raise UsageError(f"--name {name!r}: is no name for a run", hint)
    return name


def current_home() -> Path:
    """`$TUNEWRIGHT_HOME`, or that of the project around the working directory."""
    return find_home(find_project_root(Path.cwd() / "experiment.toml"))


def _complete_run(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    return [run.name for run in all_runs(current_home()) if run.name.startswith(begun)]


run_argument = click.argument("run", metavar="RUN", shell_complete=_complete_run)


def print_json(document: Any) -> None:
    """One document, indented."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
