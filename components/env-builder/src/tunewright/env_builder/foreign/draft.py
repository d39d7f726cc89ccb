"""Where a reader puts what it finds, line by line; what comes out is sorted, and no name stands in it twice."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from packaging.markers import InvalidMarker
from packaging.requirements import Requirement
from packaging.utils import InvalidName, canonicalize_name
from packaging.version import InvalidVersion, Version

from tunewright.contracts.errors import InvalidExperiment, Problem, UsageError
from tunewright.env_builder.foreign.lock import ForeignLock, ForeignPin, LeftOut, LooseRequirement, SourceKind
from tunewright.env_builder.foreign.target import Selection, Target

_HASH_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}
"""What pip takes, and how many digits each has."""

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(://[^\s?]*)\?[^\s#]*")
# The package index that pip asks where nobody says another. Known by the label before the top one.
_PUBLIC_LABELS = frozenset({"pypi", "pythonhosted"})


def without_secrets(text: str) -> str:
    """`text` with no user, password or query in any URL of it: a token may stand in each."""
    return _QUERY.sub(r"\1", _CREDENTIALS.sub("", text))


class LockDraft:
    """A lock that is being read."""

    def __init__(self, kind: SourceKind, source: str, target: Target) -> None:
        self.kind = kind
        self.source = source
        self.target = target
        self._pins: dict[str, ForeignPin] = {}
        self._loose: list[LooseRequirement] = []
        self._left_out: dict[str, LeftOut] = {}
        self._notes: dict[str, None] = {}
        self._indexes: dict[str, set[str]] = {}
        self._problems: list[Problem] = []
        self._requires_python: str | None = None

    def require_python(self, said: str, fits: bool) -> None:
        """The file is for the Pythons `said`; whether that of environments is among them."""
        self._requires_python = said
        if not fits:
            why = f"environments have Python {self.target.python}; its pins are used all the same, and may not fit"
            self.leave_out(f"Python {said}", why)

    def pin(
        self,
        name: str,
        version: str,
        hashes: Iterable[str] = (),
        where: str = "",
        extras: Iterable[str] = (),
        marker: str | None = None,
        index: str | None = None,
        conda_name: str | None = None,
    ) -> None:
        """Carry over `name` at `version`. A problem where it is pinned to another version already."""
        try:
            normal, parsed = canonicalize_name(name, validate=True), str(Version(version))
        except (InvalidName, InvalidVersion) as error:
            self.problem(where or name, str(error))
            return
        known = self._pins.get(normal)
        if known and known.version != parsed:
            before = f" (there: {known.where})" if known.where else ""
            self.problem(where or normal, f"{normal} is pinned to {parsed} here, and to {known.version} before{before}")
            return
        address = without_secrets(index).rstrip("/") if index else None
        if address and not _is_public(address):
            self._indexes.setdefault(address, set()).add(normal)
        self._pins[normal] = ForeignPin(
            name=normal,
            version=parsed,
            hashes=tuple(sorted({*self._usable(normal, hashes, where), *(known.hashes if known else ())})),
            extras=tuple(sorted({*map(canonicalize_name, extras), *(known.extras if known else ())})),
            marker=marker or (known.marker if known else None),
            index=address,
            where=where,
            conda_name=conda_name,
        )

    def _usable(self, name: str, hashes: Iterable[str], where: str) -> list[str]:
        usable = []
        for text in hashes:
            algorithm, _, digits = text.strip().lower().partition(":")
            if algorithm not in _HASH_DIGITS:
                self.note(f"{name}: its {algorithm} hash is not used: pip takes {', '.join(_HASH_DIGITS)}")
            elif not re.fullmatch(rf"[0-9a-f]{{{_HASH_DIGITS[algorithm]}}}", digits):
                must = f"{_HASH_DIGITS[algorithm]} hexadecimal digits after `{algorithm}:`"
                self.problem(where or name, f"`{text}` is no hash: must have {must}")
            else:
                usable.append(f"{algorithm}:{digits}")
        return usable

    def loose(self, name: str, requirement: str, where: str) -> None:
        """`name` has no exact version."""
        self._loose.append(LooseRequirement(name=canonicalize_name(name), requirement=requirement, where=where))

    def leave_out(self, what: str, why: str) -> None:
        """`what` is not carried over, since `why`. The first reason counts."""
        shown = without_secrets(what)
        self._left_out.setdefault(shown, LeftOut(what=shown, why=without_secrets(why)))

    def note(self, text: str) -> None:
        """Something was carried over differently from how it stands in the file."""
        self._notes.setdefault(without_secrets(text))

    def problem(self, where: str, message: str, hint: str = "") -> None:
        """The file is wrong at `where`."""
        self._problems.append(Problem(where, without_secrets(message), hint))

    def holds(self, marker: str | None, where: str) -> bool:
        """Whether `marker` holds here; no marker does. A problem where it is none."""
        try:
            return marker is None or self.target.holds(marker)
        except InvalidMarker:
            self.problem(where, f"`{marker}` is no environment marker")
            return False

    def _is_pinned(self, loose: LooseRequirement) -> bool:
        """Whether another line pins it. A problem where that version is none that this one allows."""
        pin = self._pins.get(loose.name)
        if pin and not Requirement(loose.requirement).specifier.contains(pin.version, prereleases=True):
            there = f" (there: {pin.where})" if pin.where else ""
            self.problem(loose.where, f"`{loose.requirement}` does not allow {pin.requirement}, which is pinned{there}")
        return pin is not None

    def finish(self) -> ForeignLock:
        """All of it. Raises InvalidExperiment with every problem of the file."""
        self._loose = [one for one in self._loose if not self._is_pinned(one)]
        if self._problems:
            raise InvalidExperiment.from_problems(self.source, self._problems)
        for address, names in self._indexes.items():
            why = f"the file names it for {_shown(names)}; pip's own configuration decides where packages come from"
            self.leave_out(f"index {address}", why)
        return ForeignLock(
            kind=self.kind,
            source=self.source,
            requires_python=self._requires_python,
            pins=tuple(self._pins[name] for name in sorted(self._pins)),
            loose=tuple(self._loose),
            left_out=tuple(self._left_out.values()),
            notes=tuple(self._notes),
        )


def _is_public(address: str) -> bool:
    labels = (urlsplit(address).hostname or "").split(".")
    return len(labels) > 1 and labels[-2] in _PUBLIC_LABELS


def _shown(names: Iterable[str], most: int = 5) -> str:
    every = sorted(names)
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def refuse_unknown_names(source: str, selection: Selection, extras: Iterable[str], groups: Iterable[str]) -> None:
    """Raise UsageError where an extra or a group was asked for that `source` has not."""
    for what, asked, there in (("extra", selection.extras, set(extras)), ("group", selection.groups, set(groups))):
        if unknown := [name for name in asked if name not in there]:
            has = f"it has: {', '.join(sorted(there))}" if there else f"it has no {what}"
            raise UsageError(f"--{what} {unknown[0]}: {source} has no such {what}; {has}")
