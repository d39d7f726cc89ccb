"""Which rows of a source are there at all: the conditions of `filters`, put together into one function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunewright.contracts.dataset_plugins import Row
from tunewright.contracts.experiment import RowFilter

Condition = Callable[[Any], bool]

_MESSAGE_TEXTS = ("content", "value")
"""What a message's text is called."""


def compile_filters(filters: Sequence[RowFilter]) -> Callable[[Row], bool]:
    """Whether a row meets every filter.

    The function is pure. It raises ValueError with one sentence for a row without the column, or whose value a
    condition cannot be asked of. A row that fails one filter is not asked the next.
    """
    asked = [(_reader_of(one.column), one.column, condition) for one in filters for condition in _conditions_of(one)]

    def keeps(row: Row) -> bool:
        for read, column, holds in asked:
            value = read(row)
            try:
                if value is None or not holds(value):
                    return False
            except _NoAnswer as error:
                raise ValueError(f"filter: `{column}` must be {error}, got {_shown(value)}") from None
        return True

    return keeps


class _NoAnswer(Exception):
    """A value of a kind that the condition is not for; `str` says which kind it is for."""


def _reader_of(column: str) -> Callable[[Row], Any]:
    first, *inner = column.split(".")

    def read(row: Row) -> Any:
        if column in row:  # a name with a dot in it comes before a path
            return row[column]
        value: Any = row
        for name in (first, *inner):
            if value is None:
                return None
            if not isinstance(value, Mapping) or name not in value:
                raise ValueError(
                    f"filter: has no `{column}`; it has {', '.join(f'`{one}`' for one in row) or 'nothing'}"
                )
            value = value[name]
        return value

    return read


def _conditions_of(one: RowFilter) -> list[Condition]:
    made: list[Condition] = []
    for allowed in ((one.equals,) if one.equals is not None else None, one.is_in):
        if allowed is not None:
            made.append(_is_one_of(allowed))
    for refused in ((one.not_equals,) if one.not_equals is not None else None, one.not_in):
        if refused is not None:
            made.append(_is_none_of(refused))
    if one.at_least is not None or one.at_most is not None:
        made.append(_is_between(one.at_least, one.at_most, _number))
    if one.min_characters is not None or one.max_characters is not None:
        made.append(_is_between(one.min_characters, one.max_characters, _characters))
    return made


def _is_one_of(values: Sequence[Any]) -> Condition:
    wanted = {_typed(value) for value in values}
    return lambda value: _typed(value) in wanted


def _is_none_of(values: Sequence[Any]) -> Condition:
    refused = {_typed(value) for value in values}
    return lambda value: _typed(value) not in refused


def _typed(value: Any) -> tuple[str, Any]:
    """In Python true is 1: for users it is not."""
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int | float):
        return "number", value
    if isinstance(value, str):
        return "text", value
    raise _NoAnswer("text, a number, true or false")


def _is_between(least: float | None, most: float | None, measure: Callable[[Any], float]) -> Condition:
    low, high = (float("-inf") if least is None else least), (float("inf") if most is None else most)
    return lambda value: low <= measure(value) <= high


def _number(value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        return float(value) if isinstance(value, str) else _no_number()
    except ValueError:
        return _no_number()


def _no_number() -> float:
    raise _NoAnswer("a number")


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(map(_characters_of_message, value))
    raise _NoAnswer("text or a list of messages")


def _characters_of_message(message: Any) -> int:
    if isinstance(message, str):
        return len(message)
    texts = [message[name] for name in _MESSAGE_TEXTS if name in message] if isinstance(message, Mapping) else []
    if not texts:
        raise _NoAnswer("text or a list of messages")
    return sum(len(text) for text in texts if isinstance(text, str))


def _shown(value: Any) -> str:
    return repr(value)[:60]
