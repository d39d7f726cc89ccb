"""`poetry.lock` of Poetry 1 and 2: what the groups and extras that were asked for need on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from packaging.utils import canonicalize_name

from tunewright.env_builder.foreign.documents import Document, fit, refuse_newer
from tunewright.env_builder.foreign.draft import LockDraft, refuse_unknown_names
from tunewright.env_builder.foreign.lock import ForeignLock
from tunewright.env_builder.foreign.poetry_constraints import allows
from tunewright.env_builder.foreign.poetry_graph import GraphPackage, needed_packages, plain_name, tables_of
from tunewright.env_builder.foreign.target import Selection, Target, decide_extras

_NEWEST = "2.1"
_SELF_CONTAINED = (2, 1)
"""From this lock version on, the lock says by itself what each package is for."""

_MAIN = "main"


class PoetryFile(Document):
    """A wheel or a source archive."""

    file: str
    hash: str


class PoetrySource(Document):
    """Where a package comes from, if not from the index."""

    type: str | None = None
    url: str = ""
    reference: str = ""
    resolved_reference: str | None = None

    model_config = {**Document.model_config, "alias_generator": None}


class PoetryPackage(GraphPackage):
    """One package at one version."""

    category: str | None = None
    """The group, as Poetry before 1.5 wrote it."""

    groups: tuple[str, ...] | None = None
    markers: str | dict[str, str] | None = None
    """One for all groups, or one for each."""

    marker: str | None = None
    """As lock version 1.0 wrote it."""

    files: tuple[PoetryFile, ...] | None = None
    source: PoetrySource = PoetrySource()

    @property
    def title(self) -> str:
        """Name and version, for people."""
        return f"{self.name} {self.version}"

    @property
    def group_names(self) -> tuple[str, ...]:
        """The groups it is in; empty where the lock does not tell."""
        return self.groups or ((self.category,) if self.category else ())


class PoetryMetadata(Document):
    """The end of the file."""

    lock_version: str = "1.0"
    python_versions: str = "*"
    files: dict[str, tuple[PoetryFile, ...]] = {}
    """As Poetry before 1.3 wrote them."""


class PoetryLock(Document):
    """The whole file."""

    package: tuple[PoetryPackage, ...] = ()
    extras: dict[str, tuple[str, ...]] = {}
    metadata: PoetryMetadata

    @property
    def is_self_contained(self) -> bool:
        """Whether it says by itself what each package is for."""
        return tuple(map(int, self.metadata.lock_version.split("."))) >= _SELF_CONTAINED


def parse_poetry_lock(
    document: dict[str, Any],
    source: str,
    target: Target,
    selection: Selection,
    pyproject: Mapping[str, Any] | None = None,
) -> ForeignLock:
    """The pins of a `poetry.lock` on `target`. `pyproject` is the project's own file, where it is at hand.

    Raises InvalidExperiment for a file that is none, UsageError for an extra or a group it has not.
    """
    metadata = document.get("metadata")
    version = metadata.get("lock-version", "1.0") if isinstance(metadata, dict) else "missing"
    refuse_newer(source, str(version), _NEWEST)
    lock = fit(PoetryLock, document, source)
    draft = LockDraft("poetry.lock", source, target)
    said = lock.metadata.python_versions
    draft.require_python(said, allows(said, target.python))
    tables = tables_of(pyproject or {})
    named = [one for package in lock.package for one in package.group_names]
    groups: set[str] = {canonicalize_name(one) for one in (*named, *tables)}
    refuse_unknown_names(source, selection, map(canonicalize_name, lock.extras), groups - {_MAIN})
    _leave_out_unasked(draft, lock, groups, selection)
    reader = _Reader(lock, draft, selection, _needed(lock, draft, selection, tables))
    for index, package in enumerate(lock.package):
        if reason := reader.reason_against(index, package):
            draft.leave_out(package.title, reason)
        else:
            _take(package, lock, draft)
    return draft.finish()


def _leave_out_unasked(draft: LockDraft, lock: PoetryLock, groups: set[str], selection: Selection) -> None:
    for group in sorted(groups - {_MAIN, *selection.groups}):
        draft.leave_out(f"group {group}", f"not asked for (--group {group})")
    for extra in lock.extras:
        if canonicalize_name(extra) not in selection.extras:
            draft.leave_out(f"extra {extra}", f"not asked for (--extra {extra})")


def _needed(
    lock: PoetryLock, draft: LockDraft, selection: Selection, tables: Mapping[str, Mapping[str, Any]]
) -> frozenset[int] | None:
    """The packages that are needed, by following dependencies; None where the lock says so by itself."""
    if lock.is_self_contained:
        return None
    if not tables:
        draft.note(
            "this lock version does not tell what is for which group or machine, and no pyproject.toml lies beside it: "
            "everything that no other package depends on is taken, with what it needs"
        )
    asked = {plain_name(one) for name, listed in lock.extras.items() for one in listed if _is_asked(name, selection)}
    chosen = {group: table for group, table in tables.items() if canonicalize_name(group) in (_MAIN, *selection.groups)}
    return needed_packages(lock.package, chosen if tables else None, asked, draft)


def _is_asked(extra: str, selection: Selection) -> bool:
    return canonicalize_name(extra) in selection.extras


@dataclass(frozen=True)
class _Reader:
    """Decides package by package."""

    lock: PoetryLock
    draft: LockDraft
    selection: Selection
    needed: frozenset[int] | None

    def reason_against(self, index: int, package: PoetryPackage) -> str:
        """Why `package` is no part of what was asked for, here; empty where it is."""
        groups = {canonicalize_name(group) for group in package.group_names}
        if groups and groups.isdisjoint((_MAIN, *self.selection.groups)):
            return f"only needed for group {', '.join(sorted(groups))}, which was not asked for"
        if not allows(package.python_versions, self.draft.target.python):
            return f"needs Python {package.python_versions}"
        markers = self._markers_of(package)
        if markers and not any(self._holds(marker, package) for marker in markers):
            return f"not for this machine, or not asked for: `{' or '.join(markers)}` does not hold"
        if self.needed is not None and index not in self.needed:
            return "nothing that was asked for needs it on this machine"
        return ""

    def _markers_of(self, package: PoetryPackage) -> list[str]:
        """The markers of which one must hold; empty where none must."""
        if not isinstance(package.markers, dict):
            return [one for one in (package.markers, package.marker) if one]
        asked = [one for one in package.group_names if canonicalize_name(one) in (_MAIN, *self.selection.groups)]
        # A group without a marker of its own needs the package everywhere.
        return [] if set(asked) - set(package.markers) else sorted({package.markers[one] for one in asked})

    def _holds(self, marker: str, package: PoetryPackage) -> bool:
        decided = decide_extras(marker, lambda name: _is_asked(name, self.selection))
        return self.draft.holds(decided, package.title)


def _take(package: PoetryPackage, lock: PoetryLock, draft: LockDraft) -> None:
    """Pin it, unless it comes from elsewhere than an index."""
    source = package.source
    if source.type not in (None, "legacy"):
        reference = source.resolved_reference or source.reference
        draft.leave_out(package.title, f"from {source.type}: {source.url}" + (f"@{reference}" if reference else ""))
        return
    files = package.files or _old_files(package, lock)
    if files and not any(draft.target.can_install(file.file) for file in files):
        draft.leave_out(package.title, "has neither a wheel for this machine nor a source archive")
        return
    marker = package.markers if isinstance(package.markers, str) else package.marker
    draft.pin(package.name, package.version, [file.hash for file in files], marker=marker, index=source.url or None)


def _old_files(package: PoetryPackage, lock: PoetryLock) -> tuple[PoetryFile, ...]:
    """Poetry before 1.3: the files of all versions of a package in one list."""
    listed = lock.metadata.files.get(package.name, ())
    own = tuple(file for file in listed if f"-{package.version}-" in file.file or f"-{package.version}." in file.file)
    return own or listed
