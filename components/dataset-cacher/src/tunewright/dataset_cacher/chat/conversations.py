"""A conversation: what a row format gives and a chat template takes, checked once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

Tools = tuple[Mapping[str, Any], ...]
"""What a model may call: one JSON schema each."""

TOOLS_COLUMN = "tools"

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""The names a message's reasoning goes by, the one that templates read first."""

CALL_FIELDS = ("tool_calls", "function_calls")
"""A message that calls something need not say anything."""


@dataclass(frozen=True)
class Conversation:
    """The messages of one row, as a template sees them."""

    messages: tuple[Mapping[str, Any], ...]
    """Each has a `role` and, unless it only calls tools, a `content`, both text, and whatever else the row gave it."""

    untrained: frozenset[int] = frozenset()
    """Indexes of messages that said `train: false`."""

    tools: Tools | None = None
    """The tools of the row, for templates that name them."""

    def indexes_of(self, role: str) -> list[int]:
        """Where the messages of `role` are."""
        return [index for index, message in enumerate(self.messages) if message["role"] == role]


def make_conversation(messages: Any, tools: Tools | None = None) -> Conversation:
    """The conversation of `messages`. Raises ValueError with one sentence where they are none."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise ValueError(f"`messages` must be a list of messages, got {_kind_of(messages)}")
    if not messages:
        raise ValueError("`messages` is empty; a conversation has at least one message")
    if all(map(_is_plain, messages)):  # nearly every message there is: nothing to check further, or to change
        return Conversation(tuple(messages), _NONE, tools)
    checked = [_checked_message(message, number) for number, message in enumerate(messages, start=1)]
    untrained = frozenset(index for index, message in enumerate(messages) if message.get("train") is False)
    return Conversation(tuple(checked), untrained, tools)


_NONE: frozenset[int] = frozenset()


def _is_plain(message: Any) -> bool:
    """Whether `message` is a role and a content, both text, and nothing else."""
    return (
        type(message) is dict
        and len(message) == 2
        and type(message.get("content")) is str
        and type(role := message.get("role")) is str
        and role != ""
    )


def tools_of(row: Mapping[str, Any]) -> Tools | None:
    """The `tools` column of a row: a list of objects, one object, or either as JSON text; None where there are none.

    Raises ValueError with one sentence for anything else.
    """
    value = row.get(TOOLS_COLUMN)
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError:
            raise ValueError(f"`{TOOLS_COLUMN}` is text, but not JSON: {row[TOOLS_COLUMN][:40]!r}") from None
    if not value or (isinstance(value, float) and isnan(value)):  # empty in any way, as a table's missing value is
        return None
    tools = [value] if isinstance(value, Mapping) else value
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise ValueError(f"`{TOOLS_COLUMN}` must be a list of objects, got {_kind_of(value)}")
    for number, tool in enumerate(tools, start=1):
        if not isinstance(tool, Mapping):
            raise ValueError(f"tool {number} must be an object (its JSON schema), got {_kind_of(tool)}")
    return tuple(tools)


def _checked_message(message: Any, number: int) -> Mapping[str, Any]:
    """`message` as transformers gives it to a template: without what is null, reasoning under every name for it."""
    if not isinstance(message, Mapping):
        raise ValueError(f"message {number} must be an object with `role` and `content`, got {_kind_of(message)}")
    role, content = message.get("role"), message.get("content")
    if isinstance(role, str) and isinstance(content, str) and role and len(message) == 2:
        return message  # as nearly all are: there is nothing to look at twice
    for field in ("role", "content"):
        if field == "content" and content is None and any(message.get(name) is not None for name in CALL_FIELDS):
            continue
        if field not in message:
            raise ValueError(f"message {number} has no `{field}`; it has {_names(message)}")
        if not isinstance(message[field], str):
            raise ValueError(f"message {number}: `{field}` must be text, got {_kind_of(message[field])}")
    if not role:
        raise ValueError(f"message {number}: `role` is empty")
    if not isinstance(message.get("train"), bool | None):
        raise ValueError(f"message {number}: `train` must be true or false, got {_kind_of(message['train'])}")
    kept = {key: value for key, value in message.items() if key != "train" and value is not None}
    reasoning = next((kept[name] for name in REASONING_FIELDS if name in kept), None)
    # As transformers does before it renders: templates read reasoning under different names.
    return kept if reasoning is None else {"thinking": reasoning, **kept, "reasoning_content": reasoning}


def _kind_of(value: Any) -> str:
    """What `value` is, in the words of JSON."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return "an object" if isinstance(value, Mapping) else "a list" if isinstance(value, Sequence) else str(type(value))


def _names(value: Mapping[str, Any]) -> str:
    return ", ".join(f"`{name}`" for name in value) or "nothing"
