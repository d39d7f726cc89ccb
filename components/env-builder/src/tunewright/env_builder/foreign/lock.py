"""What every format is read into: exact pins, what is not pinned, and what cannot be carried over."""

from __future__ import annotations

from typing import Literal

from tunewright.contracts.spec import Spec

SourceKind = Literal["uv.lock", "pylock.toml", "poetry.lock", "conda-lock.yml", "environment.yml", "requirements.txt"]
"""The formats that are known, each by the name its tool gives it."""


class ForeignPin(Spec):
    """One package at one version."""

    name: str
    """Normalised as PEP 503 says."""

    version: str
    """As PEP 440 writes it."""

    hashes: tuple[str, ...] = ()
    """`sha256:...` of every file the lock allows, sorted. Empty where the file has none."""

    extras: tuple[str, ...] = ()
    """The extras it was asked for with."""

    marker: str | None = None
    """The marker it was pinned under; it holds on this machine."""

    index: str | None = None
    """The index the file names for it, without credentials. It is not asked: pip's configuration decides."""

    where: str = ""
    """File and line, where the format has them."""

    conda_name: str | None = None
    """The conda package it stands for, None where it was a Python package all along."""

    @property
    def requirement(self) -> str:
        """`name==version`, as pip reads it."""
        return f"{self.name}=={self.version}"


class LooseRequirement(Spec):
    """One package without an exact version."""

    name: str
    requirement: str
    """As pip reads it: `click>=8`."""

    where: str
    """File and line."""


class LeftOut(Spec):
    """One thing of the file that no environment of ours can hold, or that was not asked for."""

    what: str
    why: str


class ForeignLock(Spec):
    """A lock, or what came nearest to one, for this machine and for what was asked for."""

    kind: SourceKind
    source: str
    """The file, as the user wrote it."""

    requires_python: str | None = None
    """The Pythons the file is for, as it says it."""

    pins: tuple[ForeignPin, ...] = ()
    """By name; no name twice."""

    loose: tuple[LooseRequirement, ...] = ()
    """What has no exact version."""

    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    """What was carried over differently from how it stands in the file."""

    @property
    def hashed(self) -> int:
        """How many pins have hashes."""
        return sum(1 for pin in self.pins if pin.hashes)
