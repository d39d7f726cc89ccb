"""What several commands take: the cache root, the digest, the experiment, `--json`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tunewright.contracts.experiment_file import LoadedExperiment, find_home, find_project_root, load_experiment
from tunewright.dataset_cacher.store import CacheStore

Command = TypeVar("Command", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
cache_root = click.option("--cache-root", metavar="PATH", help="Where caches are; $TUNEWRIGHT_HOME/datasets.")
digest_argument = click.argument("digest")


def experiment_options(command: Command) -> Command:
    """EXPERIMENT and `--set`."""
    command = click.option(
        "--set", "assignments", multiple=True, metavar="A.B=VALUE", help="Set one value of the experiment; repeatable."
    )(command)
    return click.argument("experiment", type=click.Path(path_type=Path))(command)


def load(experiment: Path, assignments: tuple[str, ...]) -> LoadedExperiment:
    """The experiment with its assignments."""
    return load_experiment(experiment, assignments)


def root_of(cache_root: str | None, loaded: LoadedExperiment | None = None) -> str:
    """The root given, else the one in the home of the experiment or of the working directory."""
    if cache_root is not None:
        return cache_root
    home = loaded.home if loaded is not None else find_home(find_project_root(Path.cwd() / "."))
    return str(home / "datasets")


def open_store(cache_root: str | None) -> CacheStore:
    """The caches to look at."""
    return CacheStore.at(root_of(cache_root))
