"""What an environment is imported for: this machine, its Python, and the extras and groups that were asked for."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from packaging.markers import Marker, UndefinedComparison, UndefinedEnvironmentName, default_environment
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from tunewright.contracts.spec import Spec

_EXTRA_TEST = re.compile(r"""extra\s*(==|!=)\s*(['"])([^'"]+)\2""")
_ALWAYS, _NEVER = "python_version >= '0'", "python_version < '0'"
_CONDA_MACHINES = {"x86_64": "64", "aarch64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x"}


class Selection(Spec):
    """What was asked for beyond the plain dependencies. Names are normalised."""

    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @classmethod
    def of(cls, extras: Iterable[str] = (), groups: Iterable[str] = ()) -> Selection:
        """The selection of these names, written in any way."""
        return cls(
            extras=tuple(sorted({canonicalize_name(one) for one in extras})),
            groups=tuple(sorted({canonicalize_name(one) for one in groups})),
        )


@dataclass(frozen=True)
class Target:
    """A machine with its Python, as markers, tags and conda see it."""

    environment: Mapping[str, str]
    """What markers are evaluated with."""

    tags: frozenset[Tag] = field(repr=False)
    """The wheels it can install."""

    conda_platform: str
    """`linux-64`."""

    @classmethod
    def here(cls) -> Target:
        """This machine, with the Python that runs this program: 3.11, as that of every environment."""
        environment = {name: str(value) for name, value in default_environment().items()}
        machine = platform.machine()
        conda_platform = f"{platform.system().lower()}-{_CONDA_MACHINES.get(machine, machine)}"
        return cls(environment, frozenset(sys_tags()), conda_platform)

    @property
    def python(self) -> str:
        """The full version of its Python."""
        return self.environment["python_full_version"]

    def holds(self, marker: str) -> bool:
        """Whether `marker` holds here, no extra being asked for. Raises InvalidMarker for what is none."""
        try:
            return Marker(marker).evaluate(dict(self.environment))
        except (UndefinedComparison, UndefinedEnvironmentName):
            return False

    def holds_in_lock(self, marker: str, selection: Selection) -> bool:
        """As `holds`, for the markers of PEP 751 that ask for `extras` and `dependency_groups`."""
        chosen = {"extras": set(selection.extras), "dependency_groups": set(selection.groups)}
        try:
            return Marker(marker).evaluate({**self.environment, **chosen}, context="lock_file")
        except (UndefinedComparison, UndefinedEnvironmentName):
            return False

    def allows_python(self, specifier: str) -> bool:
        """Whether `specifier` (`>=3.10`) has this Python in it. What cannot be read is not held against it."""
        try:
            return SpecifierSet(specifier).contains(self.python, prereleases=True)
        except InvalidSpecifier:
            return True

    def can_install(self, file: str) -> bool:
        """Whether the distribution `file` can be installed here: a wheel with a fitting tag, or any source."""
        if not file.endswith(".whl"):
            return True
        try:
            return not self.tags.isdisjoint(parse_wheel_filename(file)[3])
        except InvalidWheelFilename:
            return False


def decide_extras(marker: str, is_chosen: Callable[[str], bool]) -> str:
    """`marker` with each test of an `extra` decided: in a lock several may be chosen, a marker is asked about one."""

    def decided(test: re.Match[str]) -> str:
        return _ALWAYS if is_chosen(test[3]) == (test[1] == "==") else _NEVER

    return _EXTRA_TEST.sub(decided, marker)
