"""`pylock.toml` (PEP 751): every package that its own marker lets in."""

from __future__ import annotations

from typing import Any

from packaging.markers import InvalidMarker
from packaging.utils import canonicalize_name

from tunewright.env_builder.foreign.documents import Document, fit, refuse_newer
from tunewright.env_builder.foreign.draft import LockDraft, refuse_unknown_names
from tunewright.env_builder.foreign.lock import ForeignLock
from tunewright.env_builder.foreign.target import Selection, Target

_NEWEST = "1.0"


class PylockFile(Document):
    """A wheel or a source archive."""

    name: str | None = None
    url: str | None = None
    path: str | None = None
    hashes: dict[str, str] = {}

    @property
    def file_name(self) -> str:
        """Its file name."""
        return self.name or (self.url or self.path or "").split("#")[0].rpartition("/")[2]


class PylockPackage(Document):
    """One package at one version."""

    name: str
    version: str | None = None
    marker: str | None = None
    requires_python: str | None = None
    index: str | None = None
    vcs: dict[str, Any] | None = None
    directory: dict[str, Any] | None = None
    archive: dict[str, Any] | None = None
    sdist: PylockFile | None = None
    wheels: tuple[PylockFile, ...] = ()

    @property
    def files(self) -> tuple[PylockFile, ...]:
        """What can be installed."""
        return (*([self.sdist] if self.sdist else []), *self.wheels)


class Pylock(Document):
    """The whole file."""

    lock_version: str
    requires_python: str | None = None
    extras: tuple[str, ...] = ()
    dependency_groups: tuple[str, ...] = ()
    default_groups: tuple[str, ...] = ()
    packages: tuple[PylockPackage, ...]


def parse_pylock(document: dict[str, Any], source: str, target: Target, selection: Selection) -> ForeignLock:
    """The pins of a `pylock.toml` on `target`; its default groups are taken with those that were asked for.

    Raises InvalidExperiment for a file that is none, UsageError for an extra or a group it has not.
    """
    refuse_newer(source, str(document.get("lock-version", "missing")), _NEWEST)
    lock = fit(Pylock, document, source)
    draft = LockDraft("pylock.toml", source, target)
    if lock.requires_python:
        draft.require_python(lock.requires_python, target.allows_python(lock.requires_python))
    groups = {canonicalize_name(name) for name in (*lock.dependency_groups, *lock.default_groups)}
    refuse_unknown_names(source, selection, map(canonicalize_name, lock.extras), groups)
    chosen = Selection.of(selection.extras, (*selection.groups, *lock.default_groups))
    for option, names, asked in (
        ("extra", lock.extras, chosen.extras),
        ("group", lock.dependency_groups, chosen.groups),
    ):
        for name in names:
            if canonicalize_name(name) not in asked:
                draft.leave_out(f"{option} {name}", f"not asked for (--{option} {name})")
    for package in lock.packages:
        _take(package, draft, chosen)
    return draft.finish()


def _take(package: PylockPackage, draft: LockDraft, chosen: Selection) -> None:
    title = f"{package.name} {package.version}" if package.version else package.name
    try:
        holds = package.marker is None or draft.target.holds_in_lock(package.marker, chosen)
    except InvalidMarker:
        draft.problem(package.name, f"`{package.marker}` is no environment marker")
        return
    if not holds:
        draft.leave_out(title, f"not for this machine, or not asked for: `{package.marker}` does not hold")
    elif package.requires_python and not draft.target.allows_python(package.requires_python):
        draft.leave_out(title, f"needs Python {package.requires_python}")
    elif package.vcs is not None:
        draft.leave_out(title, f"from {package.vcs.get('type', 'version control')}: {_place(package.vcs)}")
    elif package.directory is not None:
        draft.leave_out(title, f"from a folder ({_place(package.directory)}): no part of an environment")
    elif package.archive is not None or package.version is None:
        draft.leave_out(title, f"from an archive: {_place(package.archive or {})}")
    elif package.files and not any(draft.target.can_install(file.file_name) for file in package.files):
        draft.leave_out(title, "has neither a wheel for this machine nor a source archive")
    else:
        hashes = [f"{algorithm}:{digits}" for file in package.files for algorithm, digits in file.hashes.items()]
        draft.pin(package.name, package.version, hashes, marker=package.marker, index=package.index)


def _place(table: dict[str, Any]) -> str:
    place = str(table.get("url") or table.get("path") or "unknown")
    return f"{place}@{table['commit-id']}" if "commit-id" in table else place
