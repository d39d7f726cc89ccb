"""What a lock of Poetry 1 leaves to be found out: which of its packages are needed, by whom, on this machine.

The first ones stand in the project's `pyproject.toml`; the lock has the dependencies of each package, with markers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.utils import canonicalize_name

from tunewright.env_builder.foreign.documents import Document
from tunewright.env_builder.foreign.draft import LockDraft
from tunewright.env_builder.foreign.poetry_constraints import allows


class GraphPackage(Document):
    """A package with what it depends on."""

    name: str
    version: str
    optional: bool = False
    python_versions: str = "*"
    dependencies: dict[str, Any] = {}
    extras: dict[str, tuple[str, ...]] = {}


@dataclass(frozen=True)
class _Edge:
    """One way to need a package."""

    name: str
    version: str = "*"
    marker: str | None = None
    extras: tuple[str, ...] = ()
    optional: bool = False


def needed_packages(
    packages: Sequence[GraphPackage],
    tables: Mapping[str, Mapping[str, Any]] | None,
    asked: set[str],
    draft: LockDraft,
) -> frozenset[int]:
    """The indexes of the packages that `tables` need here, `asked` being the optional ones that extras ask for.

    Without `tables` (no pyproject.toml) whatever no other package depends on is needed.
    """
    first = _first_edges(packages, asked) if tables is None else _edges_of_tables(tables, asked, draft)
    reached: dict[int, set[str]] = {}
    waiting = list(first)
    while waiting:
        edge = waiting.pop()
        if draft.holds(edge.marker, f"marker of {edge.name}"):
            for index in _meant(packages, edge, draft):
                waiting.extend(_follow(packages[index], edge, reached.setdefault(index, {""}), draft))
    return frozenset(reached)


def tables_of(pyproject: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The dependencies of a `pyproject.toml` by group; empty where it is not Poetry's."""
    poetry = pyproject.get("tool", {}).get("poetry", {})
    tables: dict[str, Mapping[str, Any]] = {}
    for group, key in (("main", "dependencies"), ("dev", "dev-dependencies")):
        if key in poetry:
            tables[group] = poetry[key]
    groups = {group: table.get("dependencies", {}) for group, table in poetry.get("group", {}).items()}
    return {**tables, **groups}


def plain_name(text: str) -> str:
    """The normalised name at the beginning of `pytest[all] (>=6)`."""
    return canonicalize_name(re.split(r"[\s\[(<>=!~^;]", text, maxsplit=1)[0])


def _edges_of_tables(tables: Mapping[str, Mapping[str, Any]], asked: set[str], draft: LockDraft) -> Iterator[_Edge]:
    for dependencies in tables.values():
        for edge in _edges(dependencies, draft):
            if not edge.optional or canonicalize_name(edge.name) in asked:
                yield edge


def _first_edges(packages: Sequence[GraphPackage], asked: set[str]) -> Iterator[_Edge]:
    depended_upon = {canonicalize_name(name) for package in packages for name in package.dependencies}
    names = {canonicalize_name(package.name) for package in packages if not package.optional}
    yield from (_Edge(name) for name in sorted((names - depended_upon) | asked))


def _meant(packages: Sequence[GraphPackage], edge: _Edge, draft: LockDraft) -> list[int]:
    return [
        index
        for index, package in enumerate(packages)
        if canonicalize_name(package.name) == canonicalize_name(edge.name)
        and allows(edge.version, package.version)
        and allows(package.python_versions, draft.target.python)
    ]


def _follow(package: GraphPackage, edge: _Edge, taken: set[str], draft: LockDraft) -> Iterator[_Edge]:
    """The edges that `edge` adds to those already `taken` of `package`: `""` stands for "just reached"."""
    dependencies = list(_edges(package.dependencies, draft))
    if "" in taken:
        taken.remove("")
        yield from (one for one in dependencies if not one.optional)
    for extra in map(canonicalize_name, edge.extras):
        if extra not in taken:
            taken.add(extra)
            listed = (names for name, names in package.extras.items() if canonicalize_name(name) == extra)
            named = {plain_name(one) for names in listed for one in names}
            yield from (one for one in dependencies if one.optional and canonicalize_name(one.name) in named)


def _edges(dependencies: Mapping[str, Any], draft: LockDraft) -> Iterator[_Edge]:
    """The edges of a table of dependencies: a version, a table, or a list of tables each."""
    for name, described in dependencies.items():
        for one in described if isinstance(described, list) else [described]:
            table = one if isinstance(one, dict) else {"version": str(one)}
            if name != "python" and allows(str(table.get("python", "*")), draft.target.python):
                version, extras = str(table.get("version", "*")), tuple(map(str, table.get("extras", ())))
                yield _Edge(name, version, table.get("markers"), extras, bool(table.get("optional", False)))
