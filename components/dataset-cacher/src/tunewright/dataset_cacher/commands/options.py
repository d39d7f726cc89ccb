"""What several commands take: the cache root, the digest, the experiment, `--json`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tunewright.contracts.datasets import DatasetManifest, read_manifest
from tunewright.contracts.errors import UsageError
from tunewright.contracts.experiment_file import (
    LoadedExperiment,
    find_cache_root,
    find_home,
    find_project_root,
    load_experiment,
)
from tunewright.dataset_cacher.storage.store import CacheStore

Command = TypeVar("Command", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
cache_root = click.option(
    "--cache-root",
    metavar="PATH-OR-URL",
    help="Where caches are: a directory, s3:// or gs://; $TUNEWRIGHT_CACHE_ROOT, else $TUNEWRIGHT_HOME/datasets.",
)
paranoid = click.option("--paranoid", is_flag=True, help="Read every source again, whatever is remembered of it.")
stage_option = click.option("--stage", metavar="NAME", help="The stage, where EXPERIMENT has `[[stages]]`.")
digest_argument = click.argument("digest")
html_page = click.option(
    "--html", "page", type=click.Path(path_type=Path), help="Write one self-contained page to this file instead."
)


def experiment_options(command: Command) -> Command:
    """EXPERIMENT and `--set`."""
    command = click.option(
        "--set", "assignments", multiple=True, metavar="A.B=VALUE", help="Set one value of the experiment; repeatable."
    )(command)
    return click.argument("experiment", type=click.Path(path_type=Path))(command)


def load(experiment: Path, assignments: tuple[str, ...], stage: str | None = None) -> LoadedExperiment:
    """The experiment with its assignments. Raises UsageError where it has stages and none is chosen."""
    loaded = load_experiment(experiment, assignments, stage)
    if stage is None and loaded.stage is not None:
        hint = f"for example: --stage {loaded.stage.name}"
        raise UsageError(f"{experiment}: has stages, and each has its dataset: choose one with --stage", hint)
    return loaded


def root_of(cache_root: str | None, loaded: LoadedExperiment | None = None) -> str:
    """The root given, else $TUNEWRIGHT_CACHE_ROOT, else the one in the home of the experiment or of where we are."""
    if cache_root is not None:
        return cache_root
    return find_cache_root(loaded.home if loaded is not None else find_home(find_project_root(Path.cwd() / ".")))


def open_store(cache_root: str | None) -> CacheStore:
    """The caches to look at."""
    return CacheStore.at(root_of(cache_root))


def open_cache(digest: str, cache_root: str | None) -> tuple[Path, DatasetManifest]:
    """The cache that `digest`, or its beginning, names: its directory and what vouches for its files."""
    store = open_store(cache_root)
    cache = store.path_of(store.resolve(digest))
    return cache, read_manifest(cache)
