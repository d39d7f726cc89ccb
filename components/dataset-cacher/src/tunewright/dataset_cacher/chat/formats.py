"""The built-in row formats: how a row of a source becomes the messages of a conversation, or of two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tunewright.contracts.dataset_plugins import DatasetFormat, Row

Messages = list[dict[str, Any]]

MESSAGES_COLUMN = "messages"

SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
                  "bard": "assistant", "assistant": "assistant", "system": "system", "tool": "tool"}  # fmt: skip


def read_messages(row: Row) -> Messages:
    """`{"messages": [{"role": ..., "content": ...}, ...]}`; in a CSV file, the list as JSON text."""
    messages = _column(row, MESSAGES_COLUMN)
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except ValueError:
            raise ValueError("`messages` is text, but not the JSON of a list of messages") from None
    return messages  # type: ignore[no-any-return]  # every format's messages are checked in one place, after it


def read_prompt_completion(row: Row) -> Messages:
    """`{"prompt": text or messages, "completion": text or messages}`."""
    return [*_turn(row, "prompt", "user"), *_turn(row, "completion", "assistant")]


def read_question_answer(row: Row) -> Messages:
    """`{"question": text, "answer": text}`."""
    return [_message("user", _text(row, "question")), _message("assistant", _text(row, "answer"))]


def read_alpaca(row: Row) -> Messages:
    """`{"instruction": text, "input": text or nothing, "output": text, "system": text or nothing}`."""
    instruction, context = _text(row, "instruction"), row.get("input") or ""
    if not isinstance(context, str):
        raise ValueError("`input` must be text")
    system = [_message("system", _text(row, "system"))] if row.get("system") else []
    question = f"{instruction}\n\n{context}" if context else instruction
    return [*system, _message("user", question), _message("assistant", _text(row, "output"))]


def read_sharegpt(row: Row) -> Messages:
    """`{"conversations": [{"from": "human" or "gpt" or "system", "value": text}, ...], "system": text or nothing}`."""
    turns = _column(row, "conversations")
    if not isinstance(turns, Sequence) or isinstance(turns, str) or not turns:
        raise ValueError("`conversations` must be a list of at least one turn")
    system = [_message("system", _text(row, "system"))] if row.get("system") else []
    return [*system, *(_sharegpt_message(turn, number) for number, turn in enumerate(turns, start=1))]


def read_preference(row: Row) -> tuple[Messages, Messages]:
    """`{"prompt", "chosen", "rejected"}`, each text or messages, or whole conversations in `chosen` and `rejected`.

    A list that does not begin with an answer is a whole conversation; a `prompt` beside two of them is not read.
    """
    chosen, rejected = _turn(row, "chosen", "assistant"), _turn(row, "rejected", "assistant")
    whole = [name for name, one in (("chosen", chosen), ("rejected", rejected)) if not _begins_with_answer(one)]
    if len(whole) == 1:
        raise ValueError(f"`{whole[0]}` has its prompt in it and the other has not: give it to both, or to none")
    prompt = [] if whole else _turn(row, "prompt", "user")
    return [*prompt, *chosen], [*prompt, *rejected]


def _begins_with_answer(messages: Messages) -> bool:
    return not isinstance(messages[0], dict) or messages[0].get("role") == "assistant"


def _sharegpt_message(turn: Any, number: int) -> dict[str, Any]:
    if not isinstance(turn, dict) or "from" not in turn or "value" not in turn:
        raise ValueError(f"turn {number} must be an object with `from` and `value`")
    role = SHAREGPT_ROLES.get(turn["from"]) if isinstance(turn["from"], str) else None
    if role is None:
        raise ValueError(f"turn {number}: `from` must be one of {', '.join(SHAREGPT_ROLES)}, got {turn['from']!r}")
    message = _message(role, turn["value"])
    return {**message, "train": turn["train"]} if "train" in turn else message


def _turn(row: Row, column: str, role: str) -> Messages:
    value = _column(row, column)
    if isinstance(value, str):
        return [_message(role, value)]
    if isinstance(value, list) and value:
        return value
    raise ValueError(f"`{column}` must be text or a list of messages")


def _message(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def _column(row: Row, column: str) -> Any:
    if row.get(column) is None:
        raise ValueError(f"has no `{column}`; it has {', '.join(f'`{name}`' for name in row) or 'nothing'}")
    return row[column]


def _text(row: Row, column: str) -> str:
    value = _column(row, column)
    if not isinstance(value, str):
        raise ValueError(f"`{column}` must be text, got {json.dumps(value, default=str)[:60]}")
    return value


def _format(name: str, summary: str, conversations_per_row: int = 1) -> DatasetFormat:
    entry = f"tunewright.dataset_cacher.chat.formats:read_{name}"
    return DatasetFormat(
        name=name, summary=summary, entry=entry, version=1, api=1, conversations_per_row=conversations_per_row
    )


BUILT_IN_FORMATS = (
    _format("messages", "a list of messages with role and content"),
    _format("prompt_completion", "a prompt and its completion, each text or messages"),
    _format("question_answer", "a question and its answer"),
    _format("alpaca", "instruction, optional input and system, output"),
    _format("sharegpt", "conversations of from and value"),
    _format("preference", "a prompt with a chosen and a rejected answer", conversations_per_row=2),
)
