"""A named collection that plugins add to: two with one name are an error naming both, an unknown name lists all."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import ClassVar, Generic, Protocol, TypeVar

from tunewright.contracts.errors import BrokenPlugin, DuplicatePlugin, Problem, UnknownPlugin

API_VERSION = 1
"""The version of every interface plugins are written against. It rises only when an old plugin would break."""


class _Named(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def api(self) -> int: ...


Entry = TypeVar("Entry", bound=_Named)


class Registry(Generic[Entry]):
    """What plugins registered, by name. `plugin` is whose turn it is; the host sets it."""

    noun: ClassVar[str] = "plugin"

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._owners: dict[str, str] = {}
        self.plugin = "?"

    def add(self, entry: Entry) -> None:
        """Register `entry`. Raises DuplicatePlugin for a name that is taken, BrokenPlugin for another API version."""
        if entry.api != API_VERSION:
            raise BrokenPlugin(
                f"{self.noun} `{entry.name}` of {self.plugin} was written for plugin API {entry.api}; "
                f"this is plugin API {API_VERSION}",
                "install a version of it that fits",
            )
        if entry.name in self._entries:
            raise DuplicatePlugin(
                f"two plugins register the {self.noun} `{entry.name}`: {self._owners[entry.name]} and {self.plugin}",
                "uninstall one of them",
            )
        self._entries[entry.name] = entry
        self._owners[entry.name] = self.plugin

    def get(self, name: str, path: str = "") -> Entry:
        """The entry called `name`, which the field `path` gave. Raises UnknownPlugin, listing what is installed."""
        if name in self._entries:
            return self._entries[name]
        installed = ", ".join(self.names()) or "none"
        close = difflib.get_close_matches(name, self._entries, n=1)
        hint = f"did you mean `{close[0]}`?" if close else "is the plugin installed? See `launcher plugins`"
        problem = Problem(path, f"unknown {self.noun} `{name}`; installed: {installed}", hint)
        raise UnknownPlugin(str(problem).split("\n")[0], hint, (problem,))

    def owner_of(self, name: str) -> str:
        """The distribution and entry point that registered `name`."""
        return self._owners[name]

    def names(self) -> tuple[str, ...]:
        """All names, sorted."""
        return tuple(sorted(self._entries))

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries[name] for name in self.names())

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries
