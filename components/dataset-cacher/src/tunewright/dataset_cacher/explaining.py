"""Why two datasets have two digests: what differs in their keys, field by field, in words. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tunewright.contracts.spec import canonical_json

_FIELDS_OF_USERS = {
    "sources": "dataset.mix",
    "max_length_tokens": "dataset.max_length_tokens",
    "shuffle": "dataset.shuffle",
    "max_dropped_fraction": "dataset.max_dropped_fraction",
}
"""What a user writes, where the key has another name for it."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONG_TEXT = 40
_SHOWN_CHARACTERS = 12
_MISSING = object()


@dataclass(frozen=True)
class Difference:
    """One thing that differs."""

    field: str
    """As the user writes it, where it is in the experiment file: `dataset.mix[0].source`."""

    message: str
    """What differs, in words, the first's side first."""

    first: Any
    """The value in the first key; None where it has none."""

    other: Any
    """The value in the other key; None where it has none."""

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def explain_keys(first: dict[str, Any], other: dict[str, Any]) -> tuple[Difference, ...]:
    """Everything in which two keys differ, in the order of the first; nothing where they give the same digest."""
    return tuple(_compare("", first, other))


def _compare(field: str, first: Any, other: Any) -> Iterator[Difference]:
    if first is not _MISSING and other is not _MISSING and canonical_json(first) == canonical_json(other):
        return  # as the digest sees it: 1, 1.0 and true are three things
    if isinstance(first, dict) and isinstance(other, dict):
        for name in dict.fromkeys([*first, *other]):
            values = first.get(name, _MISSING), other.get(name, _MISSING)
            compare = _compare_files if name == "files" and _are_lists(*values) else _compare
            yield from compare(_join(field, name), *values)
    elif isinstance(first, list) and isinstance(other, list):
        yield from _compare_lists(field, first, other)
    else:
        values = None if first is _MISSING else first, None if other is _MISSING else other
        yield Difference(field, _words(first, other), *values)


def _compare_lists(field: str, first: list[Any], other: list[Any]) -> Iterator[Difference]:
    if len(first) != len(other):
        yield Difference(field, f"{_counted(len(first))} / {_counted(len(other))}", first, other)
    for index, (mine, theirs) in enumerate(zip(first, other, strict=False)):
        yield from _compare(f"{field}[{index}]", mine, theirs)


def _compare_files(field: str, first: list[Any], other: list[Any]) -> Iterator[Difference]:
    """The files of a source, by their contents: their names are in no key."""
    field = f"{field.rpartition('.')[0]}.source"
    if len(first) != len(other):
        yield Difference(field, f"{_counted(len(first), 'file')} / {_counted(len(other), 'file')}", first, other)
    elif sorted(map(canonical_json, first)) == sorted(map(canonical_json, other)) and first != other:
        yield Difference(field, "the same files in another order", first, other)
        return
    for number, (mine, theirs) in enumerate(zip(first, other, strict=False), 1):
        for found in _compare("", mine, theirs):
            if found.field == "sha256":
                words = f"content of file {number} differs (sha256 {_short(found.first)} / {_short(found.other)})"
                yield Difference(field, words, found.first, found.other)
            else:
                yield Difference(field, f"{found.field} of file {number}: {found.message}", found.first, found.other)


def _are_lists(*values: Any) -> bool:
    return all(isinstance(value, list) for value in values)


def _join(field: str, name: str) -> str:
    return f"{field}.{name}" if field else _FIELDS_OF_USERS.get(name, name)


def _counted(count: int, noun: str = "item") -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _words(first: Any, other: Any) -> str:
    if first is _MISSING:
        return f"only in the other: {_shown(other)}"
    if other is _MISSING:
        return f"only in the first: {_shown(first)}"
    if isinstance(first, str) and isinstance(other, str):
        if _SHA256.fullmatch(first) and _SHA256.fullmatch(other):
            return f"content differs (sha256 {_short(first)} / {_short(other)})"
        if max(len(first), len(other)) > _LONG_TEXT:
            return _text_words(first, other)
    return f"{_shown(first)} / {_shown(other)}"


def _text_words(first: str, other: str) -> str:
    """Where two long texts part."""
    pairs = enumerate(zip(first, other, strict=False))
    at = next((index for index, (mine, theirs) in pairs if mine != theirs), min(len(first), len(other)))
    return f"differs at character {at + 1}: {_excerpt(first, at)} / {_excerpt(other, at)}"


def _excerpt(text: str, at: int) -> str:
    if at >= len(text):
        return "its end"
    part = text[max(0, at - _SHOWN_CHARACTERS) : at + _SHOWN_CHARACTERS]
    return f"{'...' if at > _SHOWN_CHARACTERS else ''}{part!r}{'...' if at + _SHOWN_CHARACTERS < len(text) else ''}"


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value else canonical_json(value)
    return text if len(text) <= 2 * _LONG_TEXT else f"{text[: 2 * _LONG_TEXT]}..."


def _short(digest: Any) -> str:
    return str(digest)[:_SHOWN_CHARACTERS]
