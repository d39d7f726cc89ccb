"""A machine that does not change from one real machine to the next."""

from __future__ import annotations

from pathlib import Path

from packaging.tags import compatible_tags, cpython_tags

from tunewright.env_builder.foreign.lock import ForeignLock
from tunewright.env_builder.foreign.read import read_lock
from tunewright.env_builder.foreign.target import Selection, Target

_PLATFORMS = ["manylinux_2_17_x86_64", "manylinux2014_x86_64", "linux_x86_64"]
_MARKERS = {
    "implementation_name": "cpython",
    "implementation_version": "3.11.7",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_release": "6.1",
    "platform_system": "Linux",
    "platform_version": "1",
    "python_full_version": "3.11.7",
    "python_version": "3.11",
    "sys_platform": "linux",
}

LINUX = Target(
    environment=_MARKERS,
    tags=frozenset(
        [*cpython_tags((3, 11), platforms=_PLATFORMS), *compatible_tags((3, 11), "cp311", platforms=_PLATFORMS)]
    ),
    conda_platform="linux-64",
)
FIXTURES = Path(__file__).with_name("fixtures")


def read(path: Path, extras: tuple[str, ...] = (), groups: tuple[str, ...] = ()) -> ForeignLock:
    """The lock at `path`, for that machine."""
    return read_lock(path, Selection.of(extras, groups), LINUX)


def read_text(directory: Path, name: str, text: str, extras: tuple[str, ...] = ()) -> ForeignLock:
    """The lock of `text`, written as the file `name`."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return read(path, extras)


def pins_of(lock: ForeignLock) -> list[str]:
    """`name==version` of each."""
    return [pin.requirement for pin in lock.pins]


def reasons(lock: ForeignLock) -> dict[str, str]:
    """What is left out, and why."""
    return {one.what: one.why for one in lock.left_out}
