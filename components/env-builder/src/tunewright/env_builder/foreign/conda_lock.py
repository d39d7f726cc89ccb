"""`conda-lock.yml`: this machine's packages; those of pip as they are, those of conda by their names."""

from __future__ import annotations

from typing import Any, Literal

from packaging.utils import canonicalize_name

from tunewright.contracts.errors import InvalidExperiment
from tunewright.env_builder.foreign.conda import take_conda_package
from tunewright.env_builder.foreign.conda_names import is_python_build
from tunewright.env_builder.foreign.documents import Document, fit, refuse_newer
from tunewright.env_builder.foreign.draft import LockDraft, refuse_unknown_names
from tunewright.env_builder.foreign.lock import ForeignLock
from tunewright.env_builder.foreign.target import Selection, Target

_NEWEST = "1"
_MAIN = "main"


class CondaHash(Document):
    """Of the file at the package's URL."""

    md5: str | None = None
    sha256: str | None = None


class CondaPackage(Document):
    """One package for one platform."""

    name: str
    version: str
    manager: Literal["conda", "pip"]
    platform: str
    dependencies: dict[str, Any] = {}
    url: str = ""
    hash: CondaHash = CondaHash()
    category: str = _MAIN
    optional: bool = False

    @property
    def build(self) -> str:
        """`pyhd8ed1ab_0`, the end of the file's name."""
        return self.url.rpartition("/")[2].rpartition("-")[2]

    @property
    def channel(self) -> str:
        """`conda-forge`, the part of the URL before the platform."""
        parts = self.url.split("/")
        return parts[-3] if len(parts) > 3 else ""


class CondaMetadata(Document):
    """The beginning of the file."""

    channels: tuple[dict[str, Any] | str, ...] = ()
    platforms: tuple[str, ...] = ()


class CondaLock(Document):
    """The whole file."""

    version: int
    metadata: CondaMetadata = CondaMetadata()
    package: tuple[CondaPackage, ...]


def parse_conda_lock(document: dict[str, Any], source: str, target: Target, selection: Selection) -> ForeignLock:
    """The pins of a `conda-lock.yml` on `target`. Its categories are groups, or extras: both ask for them.

    Raises InvalidExperiment for a file that is none or has nothing for this machine, UsageError for a group it has not.
    """
    refuse_newer(source, str(document.get("version", "missing")), _NEWEST)
    lock = fit(CondaLock, document, source)
    draft = LockDraft("conda-lock.yml", source, target)
    here = [package for package in lock.package if package.platform == target.conda_platform]
    if not here:
        there = ", ".join(sorted({package.platform for package in lock.package})) or "none"
        raise InvalidExperiment(f"{source}: has nothing for {target.conda_platform}; its platforms: {there}")
    categories = {canonicalize_name(package.category) for package in lock.package} - {_MAIN}
    refuse_unknown_names(source, selection, categories, categories)
    asked = {_MAIN, *selection.groups, *selection.extras}
    for category in sorted(categories - asked):
        draft.leave_out(f"group {category}", f"not asked for (--group {category})")
    for channel in lock.metadata.channels:
        name = str(channel.get("url") if isinstance(channel, dict) else channel)
        draft.leave_out(f"channel {name}", "packages come from where pip's configuration says, never from conda")
    for package in here:
        _take(package, draft, asked)
    names = {package.name for package in here}
    for package in lock.package:
        if package.name not in names:
            draft.leave_out(f"{package.name} {package.version}", f"only for {package.platform}")
    return draft.finish()


def _take(package: CondaPackage, draft: LockDraft, asked: set[str]) -> None:
    title = f"{package.name} {package.version}"
    if canonicalize_name(package.category) not in asked:
        draft.leave_out(title, f"only needed for group {package.category}, which was not asked for")
    elif package.manager == "pip":
        _take_from_pip(package, draft)
    elif package.name == "python":
        draft.require_python(package.version, _same_minor(package.version, draft.target.python))
    else:
        is_python = "python" in package.dependencies or is_python_build(package.build)
        take_conda_package(draft, package.name, package.version, package.channel, "", is_python)


def _take_from_pip(package: CondaPackage, draft: LockDraft) -> None:
    file = package.url.split("#")[0].rpartition("/")[2]
    if package.url.startswith("git+"):
        draft.leave_out(f"{package.name} {package.version}", f"from git: {package.url}")
    elif file.endswith(".whl") and not draft.target.can_install(file):
        draft.leave_out(f"{package.name} {package.version}", f"its one file, {file}, is not for this machine")
    else:
        hashes = [f"sha256:{package.hash.sha256}"] if package.hash.sha256 else []
        draft.pin(package.name, package.version, hashes)


def _same_minor(version: str, other: str) -> bool:
    return version.split(".")[:2] == other.split(".")[:2]
