"""A copy of our program for the waiter to run from: nothing beneath it can then change or go."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tunewright.contracts.plugins import ENTRY_POINT_GROUP

_PROGRAM, _PACKAGES = "program", ".packages"
_NAMESPACE = "tunewright"
_DISTRIBUTION_FILES = ("METADATA", "entry_points.txt", "COMMIT")


@dataclass(frozen=True)
class ProgramCopy:
    """How to start it."""

    python: str
    """The interpreter."""

    path: tuple[str, ...]
    """`sys.path`: the copy first."""


def copy_program(directory: Path) -> ProgramCopy:
    """Our packages and the metadata of every plugin, in `directory`. An earlier copy goes.

    Third-party packages are not copied where they lie in an environment, or in the PEX's cache, which stay. Those of a
    PEX whose cache is among the temporary files are: whoever made such a cache may remove it with the command's end.
    """
    program, draft = directory / _PROGRAM, directory / f".{_PROGRAM}-{os.getpid()}-{os.urandom(4).hex()}"
    entries, passing = [entry for entry in sys.path if entry], _passing_directories()
    try:
        for place in _namespace_places():
            shutil.copytree(place, draft / _NAMESPACE, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        for distribution in _our_distributions():
            _copy_metadata(distribution, draft)
        for number, place in enumerate(passing):
            _link_tree(place, draft / _PACKAGES / str(number))
        shutil.rmtree(program, ignore_errors=True)
        os.rename(draft, program)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    places = {place: program / _PACKAGES / str(number) for number, place in enumerate(passing)}
    path = [str(program), *(_moved(entry, places) for entry in entries)]
    return ProgramCopy(_base_python() if passing else sys.executable, tuple(dict.fromkeys(path)))


def remove_program(directory: Path) -> None:
    """Remove the copy: all of it that is needed has been read."""
    shutil.rmtree(directory / _PROGRAM, ignore_errors=True)


def _passing_directories() -> list[Path]:
    """Of a PEX's `sys.path` the directories among the temporary files, without those that lie in one of the others."""
    if "PEX" not in os.environ:
        return []
    temporary = Path(tempfile.gettempdir()).resolve()
    found = {Path(entry) for entry in sys.path if entry and entry != sys.prefix and Path(entry).is_dir()}
    found = {one for one in found if temporary in one.resolve().parents and Path(sys.base_prefix) not in one.parents}
    return sorted(one for one in found if not found.intersection(one.parents))


def _moved(entry: str, places: dict[Path, Path]) -> str:
    """The entry of `sys.path`, in the copy where it is copied."""
    path = Path(entry)
    for place, copy in places.items():
        if path == place or place in path.parents:
            return str(copy / path.relative_to(place))
    return entry


def _link_tree(source: Path, target: Path) -> None:
    """Copy a tree, links in it as what they lead to. On one file system no byte is copied: a file gets another name."""
    shutil.copytree(source, target, copy_function=_link, ignore=shutil.ignore_patterns("__pycache__"))


def _link(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


def _base_python() -> str:
    """The Python beneath a virtual environment: that of a PEX goes with its cache."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _namespace_places() -> Sequence[Path]:
    """Every directory that has a part of our name space, the one that is found last first: the others go over it."""
    places = importlib.import_module(_NAMESPACE).__path__
    return [Path(place) for place in reversed(list(places)) if Path(place).is_dir()]


def _our_distributions() -> Iterator[metadata.Distribution]:
    """Those with plugins, and our own. Of one that is found twice the first."""
    seen: set[str] = set()
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        has_plugins = any(one.group == ENTRY_POINT_GROUP for one in distribution.entry_points)
        if name not in seen and (has_plugins or name.startswith(f"{_NAMESPACE}-")):
            seen.add(name)
            yield distribution


def _copy_metadata(distribution: metadata.Distribution, program: Path) -> None:
    name = distribution.metadata["Name"].replace("-", "_")
    directory = program / f"{name}-{distribution.version}.dist-info"
    directory.mkdir(parents=True)
    for file in _DISTRIBUTION_FILES:
        text = distribution.read_text(file)
        if text is not None:
            (directory / file).write_text(text)
