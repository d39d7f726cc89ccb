"""`environment.yml`: conda's dependencies by their names in the Python index, and its `pip:` list as it is."""

from __future__ import annotations

import re
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from tunewright.contracts.errors import InvalidExperiment
from tunewright.env_builder.foreign.conda import take_conda_package
from tunewright.env_builder.foreign.conda_names import is_python_build, pypi_name
from tunewright.env_builder.foreign.documents import Document, fit, yaml_lines
from tunewright.env_builder.foreign.draft import LockDraft
from tunewright.env_builder.foreign.lock import ForeignLock
from tunewright.env_builder.foreign.requirements_txt import ReadFile, RequirementsReader
from tunewright.env_builder.foreign.target import Target

_SPEC = re.compile(r"^(?:(?P<channel>[^\s:]+)::)?(?P<name>[A-Za-z0-9._-]+)\s*(?P<rest>.*)$")
_EXACT = re.compile(r"^(?:==?)\s*(?P<version>[^\s=<>!~*,|]+)(?:=(?P<build>[^\s=]+))?$")
_SPACED = re.compile(r"^(?P<version>[0-9][^\s=<>!*,|]*)(?:\s+(?P<build>[^\s=]+))?$")
_SINGLE = "conda's `=` also lets longer versions in (`=1.26` means 1.26.*); they are taken as they stand"


class EnvironmentFile(Document):
    """The whole file."""

    channels: tuple[str, ...] = ()
    dependencies: tuple[str | dict[str, tuple[str, ...] | None], ...]
    variables: dict[str, Any] = {}


def parse_environment(
    document: dict[str, Any], text: str, source: str, target: Target, read_file: ReadFile
) -> ForeignLock:
    """The pins of an `environment.yml`, `text` being what `document` was read from, for its line numbers.

    Raises InvalidExperiment with every line that is wrong.
    """
    file = fit(EnvironmentFile, document, source)
    draft = LockDraft("environment.yml", source, target)
    reader = RequirementsReader(draft, read_file)
    for channel in file.channels:
        draft.leave_out(f"channel {channel}", "packages come from where pip's configuration says, never from conda")
    for name in file.variables:
        draft.leave_out(f"variable {name}", "variables belong to a run: `[cluster.environment]` of the experiment")
    pip_lines = iter(yaml_lines(text, "dependencies", "pip"))
    for entry, line in zip(file.dependencies, yaml_lines(text, "dependencies"), strict=False):
        if isinstance(entry, str):
            _take(entry, f"{source}:{line}", draft)
            continue
        for manager, requirements in entry.items():
            if manager != "pip":
                draft.problem(f"{source}:{line}", f"`{manager}:` is no list that conda has; `pip:` is")
                continue
            for requirement in requirements or ():
                reader.read_line(requirement.strip(), f"{source}:{next(pip_lines, line)}")
    lock = reader.finish()
    if not (lock.pins or lock.loose or lock.left_out):
        raise InvalidExperiment(f"{source}: holds no dependency")
    return lock


def _take(entry: str, where: str, draft: LockDraft) -> None:
    match = _SPEC.match(entry.strip())
    if match is None:
        draft.problem(where, f"`{entry}` is no dependency of conda's")
        return
    name, rest, channel = match["name"], _with_signs(match["rest"].strip()), match["channel"] or ""
    exact = _EXACT.match(rest)
    if name == "python":
        draft.require_python(rest.lstrip("=") or "any", _fits_python(rest, draft.target))
    elif name == "pip" and not rest:
        draft.leave_out("pip", "an environment is not changed once it is built")
    elif exact is None:
        _take_loose(name, rest, channel, where, draft)
    else:
        # A build text tells; without one the names decide.
        is_python = not exact["build"] or is_python_build(exact["build"])
        if not rest.startswith("==") and not exact["build"]:
            draft.note(_SINGLE)
        take_conda_package(draft, name, exact["version"], channel, where, is_python)


def _with_signs(rest: str) -> str:
    """`1.26.4 py311_0`, which conda reads too, as `=1.26.4=py311_0`."""
    spaced = _SPACED.match(rest)
    return "=" + "=".join(part for part in spaced.groups() if part) if spaced else rest


def _take_loose(name: str, rest: str, channel: str, where: str, draft: LockDraft) -> None:
    found = pypi_name(name)
    title = f"{name} {rest}".strip() + (f" from {channel}" if channel else "")
    if found is None:
        draft.leave_out(title, "a conda package that is no Python package")
        return
    try:
        draft.loose(found, str(Requirement(f"{found}{_as_pip(rest)}")), where)
    except InvalidRequirement:
        draft.problem(where, f"`{title}`: pip has no such way to ask for a version", "write an exact version")


def _as_pip(rest: str) -> str:
    """`=1.26.*`, `1.26.*` and `>=1,<2` as pip writes them."""
    version = rest.lstrip("=").strip()
    return f"=={version}" if version and version[0].isdigit() else rest


def _fits_python(rest: str, target: Target) -> bool:
    plain = rest.lstrip("=").split("=", maxsplit=1)[0]
    if rest.startswith("=") and plain[:1].isdigit():
        return target.python == plain or target.python.startswith(f"{plain.removesuffix('.*')}.")
    return target.allows_python(rest)
