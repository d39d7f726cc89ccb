"""What the shell completes: experiments, clusters, profiles, runs, sweeps, pipelines, paths and values of `--set`.

A completion that fails completes nothing: a broken plugin or configuration is told by the command itself.
"""

from __future__ import annotations

import contextlib
import os
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import click
from click.shell_completion import CompletionItem, split_arg_string
from pydantic import BaseModel

from tunewright.contracts.errors import TunewrightError
from tunewright.contracts.experiment_file import find_home, find_project_root, read_document
from tunewright.launcher.batch import batch_names
from tunewright.launcher.run_store import all_runs

_ITEMS = 1
"""Items of a list that are offered by number where the experiment has none."""


def current_home() -> Path:
    """`$TUNEWRIGHT_HOME`, or that of the project around the working directory."""
    return find_home(find_project_root(Path.cwd() / "experiment.toml"))


def complete_run(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """The names of this home's runs."""
    return [run.name for run in all_runs(current_home()) if run.name.startswith(begun)]


def complete_run_or_batch(context: click.Context, parameter: click.Parameter, begun: str) -> list[str]:
    """The names of sweeps and pipelines, and of runs."""
    batches = [name for name in batch_names(current_home()) if name.startswith(begun)]
    return batches + complete_run(context, parameter, begun)


def complete_record(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The names of runs; paths where there are none."""
    names = complete_run(context, parameter, begun)
    return [CompletionItem(name) for name in names] or [CompletionItem(begun, type="file")]


def complete_experiment(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Experiment files in the directory that was begun and in those right below it; else whatever paths there are."""
    start = Path(begun).expanduser()
    directory = start if begun.endswith("/") else start.parent
    paths = sorted({*directory.glob("*.toml"), *directory.glob("[!.]*/*.toml")}) if directory.is_dir() else []
    names = [str(path) for path in paths if str(path).startswith(begun.removeprefix("./")) and _is_experiment(path)]
    return [CompletionItem(name) for name in names] or [CompletionItem(begun, type="file")]


def _is_experiment(path: Path) -> bool:
    try:
        document = read_document(path)[1]
    except TunewrightError:
        return False
    return "schema" in document and "name" in document


def complete_cluster(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Clusters with what they are, and the user's profiles."""
    from tunewright.contracts.plugins import PluginHost
    from tunewright.launcher.user_config import read_user_config

    host, found = PluginHost.discover(), list[CompletionItem]()
    with contextlib.suppress(TunewrightError):
        found += [CompletionItem(info.name, help=info.summary) for info in host.clusters]
        profiles = read_user_config(host).profiles
        found += [CompletionItem(name, help=f"profile of {one.name}") for name, one in profiles.items()]
    return [item for item in found if item.value.startswith(begun)]


def complete_assignment(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """The whole paths that `--set` takes, and behind `=` the values of a field that has few."""
    from tunewright.contracts.experiment import ExperimentSpec

    document = _document()
    fields = dict(_fields(ExperimentSpec, document, (), document))
    path, equals, value = begun.partition("=")
    if equals:
        return [f"{path}={one}" for one in _literal_of(fields.get(path)) if one.startswith(value)]
    return [f"{name}{'' if name.endswith('.') else '='}" for name in fields if name.startswith(begun)]


def _document() -> Mapping[str, Any]:
    """The experiment that stands on the command line, if it can be read.

    From the words themselves: click gives up on arguments where the option that is completed has no value yet.
    """
    words = split_arg_string(os.environ.get("COMP_WORDS", ""))
    for word in words:
        with contextlib.suppress(TunewrightError):
            if word.endswith(".toml"):
                return read_document(Path(word))[1]
    return {}


def _fields(spec: Any, given: Any, path: tuple[str, ...], document: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every field below `spec` by its path, with what it may be. `given`: what the file has there."""
    values = given if isinstance(given, dict) else {}
    for name, field in spec.model_fields.items():
        key = field.alias or name
        place, annotation, value = (*path, key), field.annotation, values.get(key)
        table = _options_type(path[0], document) if key == "options" and len(path) == 1 else _spec_in(annotation)
        if table is None:
            yield ".".join(place) + ("." if typing.get_origin(annotation) is dict else ""), annotation
        elif typing.get_origin(annotation) is tuple:
            items = value if isinstance(value, list) else [None] * _ITEMS
            for number, item in enumerate(items):
                yield from _fields(table, item, (*place, str(number)), document)
        else:
            yield from _fields(table, value, place, document)


def _options_type(table: str, document: Mapping[str, Any]) -> type[BaseModel] | None:
    """What parses `[cluster.options]` or `[training.options]` of the experiment."""
    from tunewright.contracts.experiment import ClusterSpec, TrainingSpec
    from tunewright.contracts.plugins import PluginHost, options_type_of

    host, values = PluginHost.discover(), document.get(table)
    given: Mapping[str, Any] = values if isinstance(values, dict) else {}
    with contextlib.suppress(TunewrightError):
        if table == "cluster":
            default = ClusterSpec.model_fields["name"].default
            return options_type_of(host.clusters.get(str(given.get("name", default))))
        if table == "training":
            default = TrainingSpec.model_fields["variant"].default
            return options_type_of(host.variants.get(str(given.get("variant", default))))
    return None


def _spec_in(annotation: Any) -> type[BaseModel] | None:
    """The table that a field holds: itself, one of a list, or one that may be left out."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (tuple, list, typing.Union, types.UnionType):
        return next((one for part in typing.get_args(annotation) if (one := _spec_in(part))), None)
    return None


def _literal_of(annotation: Any) -> tuple[str, ...]:
    """The values a field takes, where they are few: choices, and truth."""
    if annotation is bool:
        return ("true", "false")
    if typing.get_origin(annotation) is Literal:
        return tuple(map(str, typing.get_args(annotation)))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(value for part in typing.get_args(annotation) for value in _literal_of(part))
    return ()
