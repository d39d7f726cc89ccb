"""The two kinds of files in `3rdparty/python`, read: what was asked for (`*.in`) and what was locked (`*.lock`)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_NAME = r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
_PINNED = re.compile(rf"{_NAME}\s*(?:\[[^\]]*\])?\s*==\s*(?P<version>[^\s;,\\]+)(?=[\s;\\]|$)")
_NAMED = re.compile(_NAME)
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}(?![0-9a-f])")
_COMMENT = re.compile(r"(^|\s)#.*$")
_PLACES = ("-i", "-f", "--index-url", "--extra-index-url", "--find-links", "--trusted-host")


@dataclass(frozen=True)
class RequirementLine:
    """One line of a `*.in` file that asks for something, or includes another file (`-r FILE`)."""

    path: str
    """The file it stands in."""

    line: int
    """Counted from 1."""

    text: str
    """Without comment and surrounding space."""

    @property
    def included(self) -> str | None:
        """The file that this line includes, as written. None where it asks for a package."""
        option, _, name = self.text.partition(" ")
        return name.strip() if option in ("-r", "--requirement") else None


@dataclass(frozen=True)
class LockEntry:
    """One package of a lock."""

    line: int
    """Counted from 1: where the entry starts."""

    name: str
    """In its normal form: lower case, with `-` between words."""

    version: str | None
    """The version it is pinned to with `==`, None where it is not."""

    num_hashes: int
    """How many SHA-256 digests vouch for it: one for each file of the release."""


def requirement_lines(text: str, path: str) -> list[RequirementLine]:
    """What the `*.in` file at `path` asks for, line by line. Nothing is judged here."""
    return [RequirementLine(path, line, content) for line, content in _logical_lines(text)]


def lock_entries(text: str) -> list[LockEntry]:
    """The packages of a lock in pip's form, in its order. Options (`--index-url ...`) are not packages."""
    return [_entry(line, content) for line, content in _logical_lines(text) if _NAMED.match(content)]


def lines_with_hosts(text: str) -> list[int]:
    """The lines, counted from 1, that name a host or a place to fetch from: a lock is the same wherever it is used."""
    return [
        number
        for number, line in enumerate(text.splitlines(), 1)
        if "://" in line or " @ " in line or line.lstrip().startswith(_PLACES)
    ]


def _entry(line: int, content: str) -> LockEntry:
    from packaging.utils import canonicalize_name

    match = _PINNED.match(content) or _NAMED.match(content)
    assert match is not None  # the caller looked
    version = match.groupdict().get("version")
    return LockEntry(line, canonicalize_name(match["name"]), version, len(_HASH.findall(content)))


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Each line that says something, with the lines it goes on in (`\\` at the end) and without comments."""
    start, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        content = (_COMMENT.sub("", line) if "#" in line else line).strip()
        start = start if parts else number
        parts.append(content.removesuffix("\\").strip())
        if content.endswith("\\"):
            continue
        if joined := " ".join(part for part in parts if part):
            yield start, joined
        parts = []
    if joined := " ".join(part for part in parts if part):
        yield start, joined
