"""Every public name of the contracts as one line of text, for comparison with the recorded ones.

Run as a program it prints them: the answer to a change that is wanted is

    ./pants run tests/components/contracts/public_signatures.py > tests/components/contracts/public_signatures.txt
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from tunewright.contracts import (
    adapters,
    checkpoints,
    clusters,
    command_line,
    costs,
    dataset_copies,
    dataset_plugins,
    datasets,
    distributions,
    environments,
    errors,
    experiment,
    experiment_file,
    file_locks,
    files,
    hookspecs,
    job_problems,
    jobs,
    plugins,
    preflight,
    provenance,
    registry,
    rundir,
    secret_values,
    spec,
    stages,
    status,
    timestamps,
    variants,
)
from tunewright.contracts.spec import Spec

# Named one by one: Pants gives a test the modules that are imported, and no others.
MODULES: tuple[ModuleType, ...] = (
    adapters, checkpoints, clusters, command_line, costs, dataset_copies, dataset_plugins, datasets, distributions,
    environments, errors, experiment, experiment_file, file_locks, files, hookspecs, job_problems, jobs, plugins,
    preflight, provenance, registry, rundir, secret_values, spec, stages, status, timestamps, variants,
)  # fmt: skip


def public_classes() -> Iterator[type[Any]]:
    """Every public class, in the order of its module."""
    for module in MODULES:
        for name, value in vars(module).items():
            if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                yield value


def public_lines() -> list[str]:
    """One line a name: functions with their arguments, fields with their types, constants with their values."""
    return [line for module in MODULES for line in _module_lines(module)]


def _module_lines(module: ModuleType) -> Iterator[str]:
    prefix = module.__name__.removeprefix("tunewright.contracts.")
    for name, value in sorted(vars(module).items()):
        if name.startswith("_"):
            continue
        if name.isupper() and isinstance(value, (str, int, tuple)):
            yield f"{prefix}.{name} = {value!r}"
        elif getattr(value, "__module__", None) != module.__name__:
            continue
        elif inspect.isclass(value):
            yield from _class_lines(f"{prefix}.{name}", value)
        elif inspect.isfunction(value):
            yield f"{prefix}.{name}{inspect.signature(value)}"


def _class_lines(prefix: str, kind: type[Any]) -> Iterator[str]:
    bases = ", ".join(base.__name__ for base in kind.__bases__ if base is not object)
    yield f"{prefix}({bases})"
    if issubclass(kind, enum.Enum):
        yield f"{prefix}: {', '.join(str(member.value) for member in kind)}"
    elif issubclass(kind, Spec) or dataclasses.is_dataclass(kind):
        for name, annotation in inspect.get_annotations(kind).items():
            yield f"{prefix}.{name}: {annotation}{' (has a default)' if _has_default(kind, name) else ''}"
    for name, value in sorted(vars(kind).items()):
        if name.startswith("_") and (name != "__init__" or getattr(kind, "_is_protocol", False)):
            continue
        function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if inspect.isfunction(function) and not (name == "__init__" and dataclasses.is_dataclass(kind)):
            yield f"{prefix}.{name}{inspect.signature(function)}"
        elif isinstance(value, property) and value.fget is not None:
            yield f"{prefix}.{name} -> {inspect.signature(value.fget).return_annotation}"


def _has_default(kind: type[Any], name: str) -> bool:
    if issubclass(kind, Spec):
        return name in kind.model_fields and not kind.model_fields[name].is_required()
    field = {one.name: one for one in dataclasses.fields(kind)}.get(name)
    missing = dataclasses.MISSING
    return field is not None and (field.default is not missing or field.default_factory is not missing)


if __name__ == "__main__":
    print("\n".join(public_lines()))
