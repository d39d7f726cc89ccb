"""Which pins of a lock are known to be bad."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunewright.contracts.preflight import Finding
from tunewright.env_builder.locks.agreement import is_version
from tunewright.env_builder.locks.known_bad import CUDA, KNOWN_BAD, KnownBad, Target
from tunewright.env_builder.locks.project import FOLDER, read_text
from tunewright.env_builder.locks.requirement_files import LockEntry, lock_entries

INSTALLED: tuple[tuple[str, Target, str | None], ...] = (
    ("tools", "cpu", None),
    ("train-cpu", "cpu", None),
    ("train-cuda", "cuda", None),
    ("flash-attn", "cuda", "train-cuda"),
)
"""Each lock, what it is installed for, and the lock it is installed beside."""

_CUDA_RUNTIME = re.compile(r"nvidia-cuda-runtime(?:-cu\d+)?")
_CUDA_BUILD = re.compile(r"\+cu(\d+)(\d)$")


def find_known_bad(lock_text: str, target: Target, path: str = "", beside_text: str = "") -> list[Finding]:
    """The known-bad pins of one lock in pip's form (with hashes or without), installed for `target`.

    `path` is what findings call the lock; `beside_text` is another lock that is installed with it.
    """
    entries = _pinned(lock_text)
    versions = _versions([*_pinned(beside_text), *entries])
    found: dict[tuple[str, int], Finding] = {}
    for known in KNOWN_BAD:
        if known.target not in (None, target) or not _is_beside(known, versions):
            continue
        for entry in entries:
            if entry.name == known.package and _matches(known.versions, entry.version):
                found.setdefault((known.code, entry.line), _finding(known, entry, versions, path))
    return list(found.values())


def find_known_bad_pins(root: Path) -> list[Finding]:
    """The known-bad pins in the locks of the checkout at `root`. Reads only; a lock that is not there has none."""
    findings = list[Finding]()
    for name, target, beside in INSTALLED:
        lock = root / FOLDER / f"{name}.lock"
        other = root / FOLDER / f"{beside}.lock"
        if lock.is_file():
            beside_text = read_text(other) if beside and other.is_file() else ""
            findings += find_known_bad(read_text(lock), target, lock.relative_to(root).as_posix(), beside_text)
    return findings


def cuda_of(entries: Sequence[LockEntry]) -> str | None:
    """The CUDA (`13.0`) that the torch of these packages is built with, None where it is a CPU build or unknown."""
    for entry in entries:
        if entry.name == "torch" and (match := _CUDA_BUILD.search(entry.version or "")):
            return f"{match[1]}.{match[2]}"
    for entry in entries:
        if entry.version and _CUDA_RUNTIME.fullmatch(entry.name):
            return ".".join(entry.version.split(".")[:2])
    return None


def _pinned(text: str) -> list[LockEntry]:
    return [entry for entry in lock_entries(text) if is_version(entry.version)]


def _versions(entries: Sequence[LockEntry]) -> dict[str, str]:
    versions = {entry.name: entry.version for entry in entries if entry.version}
    cuda = cuda_of(entries)
    return {**versions, CUDA: cuda} if cuda else versions


def _is_beside(known: KnownBad, versions: Mapping[str, str]) -> bool:
    if known.beside is None:
        return True
    name, specifier = known.beside
    return _matches(specifier, versions.get(name))


def _matches(specifier: str, version: str | None) -> bool:
    from packaging.specifiers import SpecifierSet

    return version is not None and SpecifierSet(specifier).contains(version, prereleases=True)


def _finding(known: KnownBad, entry: LockEntry, versions: Mapping[str, str], path: str) -> Finding:
    other = known.beside[0] if known.beside else None
    beside = f" beside {'CUDA' if other == CUDA else other} {versions[other]}" if other else ""
    return Finding(
        code=known.code,
        severity=known.severity,
        path=f"{path}:{entry.line}" if path else f"line {entry.line}",
        message=f"{entry.name} {entry.version}{beside}: {known.reason} ({known.source})",
        hint=f"use {known.instead}",
    )
