"""A conversation: what a row format gives and a chat template takes, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""The names a message's reasoning goes by, the one that templates read first."""


@dataclass(frozen=True)
class Conversation:
    """The messages of one row, as a template sees them."""

    messages: tuple[Mapping[str, Any], ...]
    """Each has `role` and `content`, both text, and whatever else the row gave it."""

    untrained: frozenset[int] = frozenset()
    """Indexes of messages that said `train: false`."""

    def indexes_of(self, role: str) -> list[int]:
        """Where the messages of `role` are."""
        return [index for index, message in enumerate(self.messages) if message["role"] == role]


def make_conversation(messages: Any) -> Conversation:
    """The conversation of `messages`. Raises ValueError with one sentence where they are none."""
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise ValueError(f"`messages` must be a list of messages, got {_kind_of(messages)}")
    if not messages:
        raise ValueError("`messages` is empty; a conversation has at least one message")
    checked = [_checked_message(message, number) for number, message in enumerate(messages, start=1)]
    untrained = frozenset(index for index, message in enumerate(messages) if message.get("train") is False)
    return Conversation(tuple(checked), untrained)


def _checked_message(message: Any, number: int) -> dict[str, Any]:
    """`message` without its `train` flag, and with its reasoning under the names that templates read."""
    if not isinstance(message, Mapping):
        raise ValueError(f"message {number} must be an object with `role` and `content`, got {_kind_of(message)}")
    for field in ("role", "content"):
        if field not in message:
            raise ValueError(f"message {number} has no `{field}`; it has {_names(message)}")
        if not isinstance(message[field], str):
            raise ValueError(f"message {number}: `{field}` must be text, got {_kind_of(message[field])}")
    if not message["role"]:
        raise ValueError(f"message {number}: `role` is empty")
    if not isinstance(message.get("train"), bool | None):
        raise ValueError(f"message {number}: `train` must be true or false, got {_kind_of(message['train'])}")
    kept = {key: value for key, value in message.items() if key != "train"}
    reasoning = next((kept[name] for name in REASONING_FIELDS if kept.get(name) is not None), None)
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
