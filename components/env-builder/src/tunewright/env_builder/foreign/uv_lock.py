"""`uv.lock`: what the project needs on this machine, found by following dependencies from the project on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from packaging.utils import canonicalize_name
from pydantic import Field

from tunewright.contracts.errors import InvalidExperiment
from tunewright.env_builder.foreign.documents import Document, fit, refuse_newer
from tunewright.env_builder.foreign.draft import LockDraft, refuse_unknown_names
from tunewright.env_builder.foreign.lock import ForeignLock
from tunewright.env_builder.foreign.target import Selection, Target, decide_extras

_NEWEST = "1"


class UvSource(Document):
    """Where a package comes from: one of these."""

    registry: str | None = None
    git: str | None = None
    url: str | None = None
    path: str | None = None
    directory: str | None = None
    editable: str | None = None
    virtual: str | None = None

    @property
    def folder(self) -> str | None:
        """The folder of a project of the workspace's own, None for everything else."""
        return self.editable or self.directory or self.virtual


class UvFile(Document):
    """A wheel or a source archive."""

    url: str | None = None
    path: str | None = None
    filename: str | None = None
    hash: str | None = None

    @property
    def name(self) -> str:
        """Its file name."""
        return self.filename or (self.url or self.path or "").split("#")[0].rpartition("/")[2]


class UvDependency(Document):
    """An edge: the package it leads to, and when."""

    name: str
    version: str | None = None
    source: UvSource | None = None
    marker: str | None = None
    extra: tuple[str, ...] = ()


class UvPackage(Document):
    """One package at one version."""

    name: str
    version: str | None = None
    source: UvSource = UvSource()
    dependencies: tuple[UvDependency, ...] = ()
    optional_dependencies: dict[str, tuple[UvDependency, ...]] = {}
    dev_dependencies: dict[str, tuple[UvDependency, ...]] = {}
    sdist: UvFile | None = None
    wheels: tuple[UvFile, ...] = ()

    @property
    def title(self) -> str:
        """Name and version, for people."""
        return f"{self.name} {self.version}" if self.version else self.name

    @property
    def files(self) -> tuple[UvFile, ...]:
        """What can be installed."""
        return (*([self.sdist] if self.sdist else []), *self.wheels)


class UvManifest(Document):
    """What the lock was made from."""

    members: tuple[str, ...] = ()


class UvLock(Document):
    """The whole file."""

    version: int
    requires_python: str | None = None
    manifest: UvManifest = UvManifest()
    package: tuple[UvPackage, ...] = Field(min_length=1)


@dataclass
class _Walk:
    """The packages reached, with the extras of each, and the edges that were not followed."""

    lock: UvLock
    draft: LockDraft
    conflict_names: frozenset[str]
    """The extras and groups that were asked for, as the markers of conflicting ones name them."""

    reached: dict[int, set[str]] = field(default_factory=dict)
    markers: dict[int, str] = field(default_factory=dict)
    """The marker a package was reached under, the first one."""

    not_followed: dict[int, str] = field(default_factory=dict)
    """Each package behind an edge whose marker does not hold, with that marker."""

    def follow(self, edges: Iterable[UvDependency], everywhere: bool = False) -> None:
        """Reach whatever `edges` lead to, and so on; `everywhere` takes every marker to hold."""
        waiting = list(edges)
        while waiting:
            edge = waiting.pop()
            for index in self._meant(edge):
                # A marker without an extra is one of machines: they do not count everywhere.
                is_taken = everywhere and "extra" not in (edge.marker or "")
                if not is_taken and not self._holds(edge.marker):
                    self.not_followed.setdefault(index, str(edge.marker))
                    continue
                waiting.extend(self._reach(index, edge))

    def _reach(self, index: int, edge: UvDependency) -> Iterator[UvDependency]:
        package = self.lock.package[index]
        if edge.marker:
            self.markers.setdefault(index, edge.marker)
        if index not in self.reached:
            self.reached[index] = set()
            yield from package.dependencies
        for extra in map(canonicalize_name, edge.extra):
            if extra not in self.reached[index]:
                self.reached[index].add(extra)
                yield from _named(package.optional_dependencies, extra)

    def _meant(self, edge: UvDependency) -> list[int]:
        fitting = [
            index
            for index, package in enumerate(self.lock.package)
            if canonicalize_name(package.name) == canonicalize_name(edge.name)
            and (edge.version is None or package.version in (None, edge.version))
            and (edge.source is None or package.source == edge.source)
        ]
        if not fitting:
            self.draft.problem(edge.name, "is a dependency, and no package of the lock")
        return fitting

    def _holds(self, marker: str | None) -> bool:
        if marker is None:
            return True
        decided = decide_extras(marker, self.conflict_names.__contains__)
        return self.draft.holds(decided, f"marker `{marker}`")


def parse_uv_lock(document: dict[str, Any], source: str, target: Target, selection: Selection) -> ForeignLock:
    """The pins of a `uv.lock` that the project (each project, where none is at its root) needs on `target`.

    Raises InvalidExperiment for a file that is none, UsageError for an extra or a group it has not.
    """
    refuse_newer(source, str(document.get("version", "missing")), _NEWEST)
    lock = fit(UvLock, document, source)
    roots = _roots(lock, source)
    draft = LockDraft("uv.lock", source, target)
    if lock.requires_python:
        draft.require_python(lock.requires_python, target.allows_python(lock.requires_python))
    extras = {canonicalize_name(name) for root in roots for name in root.optional_dependencies}
    groups = {canonicalize_name(name) for root in roots for name in root.dev_dependencies}
    refuse_unknown_names(source, selection, extras, groups)
    walk = _Walk(lock, draft, _conflict_names(roots, selection))
    for root in roots:
        walk.reached.setdefault(lock.package.index(root), set())
        walk.follow(_wanted(root, selection))
    _leave_out_unwanted(walk, roots, selection)
    for index, package in enumerate(lock.package):
        if index in walk.reached:
            _take(package, walk, index)
    return draft.finish()


def _roots(lock: UvLock, source: str) -> list[UvPackage]:
    own = [package for package in lock.package if package.source.folder == "."]
    members = {canonicalize_name(name) for name in lock.manifest.members}
    roots = own or [package for package in lock.package if canonicalize_name(package.name) in members]
    if not roots:
        raise InvalidExperiment(f"{source}: has no project of its own: no package from `.`, and no workspace members")
    return roots


def _named(tables: dict[str, tuple[UvDependency, ...]], wanted: str) -> tuple[UvDependency, ...]:
    return next((edges for name, edges in tables.items() if canonicalize_name(name) == wanted), ())


def _conflict_names(roots: list[UvPackage], selection: Selection) -> frozenset[str]:
    kinds = (("extra", selection.extras), ("group", selection.groups))
    return frozenset(_conflict_name(kind, root, name) for root in roots for kind, names in kinds for name in names)


def _conflict_name(kind: str, root: UvPackage, name: str) -> str:
    """As uv writes it: `extra-4-demo-cpu`, the number being the length of the project's name."""
    return f"{kind}-{len(root.name)}-{root.name}-{name}"


def _wanted(root: UvPackage, selection: Selection) -> list[UvDependency]:
    extras = [edge for name in selection.extras for edge in _named(root.optional_dependencies, name)]
    groups = [edge for name in selection.groups for edge in _named(root.dev_dependencies, name)]
    return [*root.dependencies, *extras, *groups]


def _leave_out_unwanted(walk: _Walk, roots: list[UvPackage], selection: Selection) -> None:
    """Name every extra and group that was not asked for, and every package that is not reached, with its reason."""
    only_for: dict[int, str] = {}
    for root in roots:
        for option, tables, asked in (
            ("extra", root.optional_dependencies, selection.extras),
            ("group", root.dev_dependencies, selection.groups),
        ):
            for name, edges in tables.items():
                if canonicalize_name(name) in asked:
                    continue
                walk.draft.leave_out(f"{option} {name} of {root.name}", f"not asked for (--{option} {name})")
                beyond = _Walk(walk.lock, walk.draft, walk.conflict_names | {_conflict_name(option, root, name)})
                beyond.follow(edges, everywhere=True)
                for index in beyond.reached:
                    only_for.setdefault(index, f"{option} {name}")
    for index, package in enumerate(walk.lock.package):
        if index not in walk.reached:
            walk.draft.leave_out(package.title, _reason(walk, index, only_for))


def _reason(walk: _Walk, index: int, only_for: dict[int, str]) -> str:
    if marker := walk.not_followed.get(index):
        what = "not asked for" if "extra" in marker else "not for this machine"
        return f"{what}: `{marker}` does not hold"
    if needed_for := only_for.get(index):
        return f"only needed for {needed_for}, which was not asked for"
    if walk.lock.package[index].source.folder:
        return "a member of the workspace that the project does not need"
    return "only needed by packages that are left out"


def _take(package: UvPackage, walk: _Walk, index: int) -> None:
    draft, source = walk.draft, package.source
    if source.folder:
        if not source.virtual:
            why = f"a project's own code ({source.folder}) is no part of an environment; what it depends on is"
            draft.leave_out(package.title, why)
        return
    if source.git:
        draft.leave_out(package.title, f"from git: {source.git}")
    elif source.url:
        draft.leave_out(package.title, f"from a URL: {source.url}")
    elif source.path or package.version is None:
        draft.leave_out(package.title, f"from a local file: {source.path or 'unknown'}")
    elif package.files and not any(draft.target.can_install(file.name) for file in package.files):
        draft.leave_out(package.title, "has neither a wheel for this machine nor a source archive")
    else:
        hashes = [file.hash for file in package.files if file.hash]
        extras, marker = walk.reached[index], walk.markers.get(index)
        draft.pin(package.name, package.version, hashes, "", extras, marker, source.registry)
