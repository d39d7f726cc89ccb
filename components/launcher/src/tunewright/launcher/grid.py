"""`--grid a.b=V1,V2`: what a sweep varies, and the points of it. Pure."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.contracts.errors import UsageError
from tunewright.contracts.experiment import excluded_by
from tunewright.contracts.experiment_file import apply_assignment

_EXAMPLE = "for example: --grid training.learning_rate=1e-4,3e-4"
_CLOSING = {"[": "]", "{": "}", "(": ")"}


@dataclass(frozen=True)
class Axis:
    """One `--grid`: a field, and the values it takes in turn."""

    path: str
    """As users write it: `training.learning_rate`, `dataset.mix.0.rows`."""

    texts: tuple[str, ...]
    """The values as they were written."""

    values: tuple[Any, ...]
    """The same, as `--set` would take them."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The path's keys."""
        return tuple(self.path.split("."))


@dataclass(frozen=True)
class Choice:
    """One point of a grid: a value of each axis."""

    number: int
    """From 1, in the order of the grid: the last axis changes first."""

    indices: tuple[int, ...]
    """Which value of each axis."""

    texts: Mapping[str, str]
    """The values by their paths, as they were written."""

    values: Mapping[str, Any]
    """The values by their paths."""

    @property
    def plain_values(self) -> dict[str, Any]:
        """The values as JSON has them; what JSON does not have (dates, infinity) as it was written."""
        return {path: value if _is_json(value) else self.texts[path] for path, value in self.values.items()}

    @property
    def label(self) -> str:
        """How messages name it: `training.learning_rate=1e-4, seed=3`."""
        return ", ".join(f"{path}={text}" for path, text in self.texts.items())

    @property
    def assignments(self) -> tuple[str, ...]:
        """What `--set` would be given for it."""
        return tuple(f"{path}={text}" for path, text in self.texts.items())


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def parse_grid(arguments: Sequence[str]) -> tuple[Axis, ...]:
    """The axes of all `--grid` arguments. Raises UsageError for one that is none, or that collides with another."""
    if not arguments:
        raise UsageError("sweep: needs one --grid or more: what is to be varied", _EXAMPLE)
    axes = tuple(_parse_axis(argument) for argument in arguments)
    for first, second in itertools.combinations(axes, 2):
        _refuse_collision(first, second)
    return axes


def _parse_axis(argument: str) -> Axis:
    path, equals, text = argument.partition("=")
    path = path.strip()
    if not equals or not all(path.split(".")):
        got = "no `=`" if not equals else "no path"
        raise UsageError(f"--grid {argument}: must be PATH=VALUE,VALUE..., got {got}", _EXAMPLE)
    if path in ("name", "schema") or path.split(".")[0] == "stages":
        raise UsageError(f"--grid {argument}: `{path}` cannot be varied", "runs are named after the sweep: --name")
    texts = _split_values(text, argument)
    values = [_value_of(one) for one in texts]
    for index, value in enumerate(values):
        if any(type(value) is type(other) and value == other for other in values[:index]):
            raise UsageError(f"--grid {argument}: `{texts[index]}` is there twice", "each value makes a run: once")
    return Axis(path, tuple(texts), tuple(values))


def _value_of(text: str) -> Any:
    document: dict[str, Any] = {}
    apply_assignment(document, f"value={text}")
    return document["value"]


def _split_values(text: str, argument: str) -> list[str]:
    """`text` at its commas, but not at those inside quotes or brackets. Raises UsageError where one stays open."""
    values, closing, quote, begun, is_escaped = [], list[str](), "", 0, False
    for place, character in enumerate(text):
        if quote:
            if character == quote and not is_escaped:
                quote = ""
            is_escaped = character == "\\" and quote == '"' and not is_escaped
        elif character in "\"'" and (closing or not text[begun:place].strip()):  # else an apostrophe in a word
            quote = character
        elif character in _CLOSING:
            closing.append(_CLOSING[character])
        elif closing and character == closing[-1]:
            closing.pop()
        elif character == "," and not closing:
            values.append(text[begun:place].strip())
            begun = place + 1
    values.append(text[begun:].strip())
    if quote or closing:
        raise UsageError(f"--grid {argument}: a `{quote or closing[-1]}` is missing")
    if not all(values):
        raise UsageError(f"--grid {argument}: a value is empty", 'an empty text is written `""`')
    return values


def _refuse_collision(first: Axis, second: Axis) -> None:
    longest, shortest = sorted((first.parts, second.parts), key=len, reverse=True)
    both = f"--grid {first.path} and --grid {second.path}"
    if longest[: len(shortest)] == shortest:
        same = "the same field" if longest == shortest else "one is a part of the other"
        raise UsageError(f"{both}: {same}", "give all its values in one --grid")
    if first.parts[:-1] == second.parts[:-1] and second.parts[-1] in excluded_by(first.parts[-1]):
        raise UsageError(f"{both} exclude each other: both say the same thing in two ways")


def points_of(axes: Sequence[Axis]) -> Iterator[Choice]:
    """Every combination of the axes' values, in order: the last axis changes first."""
    paths = [axis.path for axis in axes]
    values = [list(enumerate(zip(axis.texts, axis.values, strict=True))) for axis in axes]
    for number, chosen in enumerate(itertools.product(*values), start=1):
        indices = tuple(index for index, _ in chosen)
        texts = {path: text for path, (_, (text, _)) in zip(paths, chosen, strict=True)}
        yield Choice(number, indices, texts, {path: value for path, (_, (_, value)) in zip(paths, chosen, strict=True)})


def with_value(document: Any, parts: Sequence[str], value: Any) -> Any:
    """`document` with one value set, as `--set` sets it; what does not change is shared with the old one."""
    first, *rest = parts
    if isinstance(document, list):
        items = list(document)
        items[int(first)] = with_value(items[int(first)], rest, value) if rest else value
        return items
    copy = dict(document or {})
    copy[first] = with_value(copy.get(first), rest, value) if rest else value
    if not rest:
        for other in excluded_by(first):
            copy.pop(other, None)
    return copy


def run_names(sweep: str, count: int) -> list[str]:
    """The runs of a sweep of `count` points: `lr-01`, `lr-02`, ... so that they sort as they are numbered."""
    width = len(str(count))
    return [f"{sweep}-{number:0{width}}" for number in range(1, count + 1)]
