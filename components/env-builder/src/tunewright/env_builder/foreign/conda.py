"""What both of conda's files share: which of its packages are Python's, and under which name."""

from __future__ import annotations

from packaging.version import InvalidVersion, Version

from tunewright.env_builder.foreign.conda_names import pypi_name
from tunewright.env_builder.foreign.draft import LockDraft

_UNCHECKED = "conda packages are taken by their names in the Python index, whose files are others than conda's"


def take_conda_package(draft: LockDraft, name: str, version: str, channel: str, where: str, is_python: bool) -> None:
    """Pin the conda package, or name it as left out: what is not Python's, and what the index has no version of."""
    title = f"{name} {version}" + (f" from {channel}" if channel else "")
    found = pypi_name(name) if is_python else None
    if found is None:
        draft.leave_out(title, "a conda package that is no Python package")
        return
    try:
        Version(version)
    except InvalidVersion:
        draft.leave_out(title, f"its version `{version}` is none of the Python index")
        return
    if found != name.lower():
        draft.note(f"conda's {name} is {found} in the Python index")
    draft.note(_UNCHECKED)
    draft.pin(found, version, where=where, conda_name=name)
