"""A preference: two conversations that begin alike and end with a better and a worse answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tunewright.dataset_cacher.chat.conversations import Conversation, Tools, make_conversation

SIDES = ("chosen", "rejected")
"""The two sequences of a pair, in the order in which a cache holds them."""


def side_of(number: int, sequences_per_example: int) -> str | None:
    """Which side of its pair sequence `number` of a cache is; None where a cache holds no pairs."""
    return SIDES[number % 2] if sequences_per_example == len(SIDES) else None


def make_pair(chosen: Any, rejected: Any, tools: Tools | None = None) -> tuple[Conversation, Conversation]:
    """The two conversations. The messages that both begin with are the prompt: none of it is trained.

    Raises ValueError with one sentence where one of them is no conversation, or they share no prompt.
    """
    better, worse = (_side(name, one, tools) for name, one in zip(SIDES, (chosen, rejected), strict=True))
    num_shared = _num_shared(better.messages, worse.messages)
    return _without_prompt(better, num_shared), _without_prompt(worse, num_shared)


def _side(name: str, messages: Any, tools: Tools | None) -> Conversation:
    try:
        return make_conversation(messages, tools)
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from None


def _num_shared(chosen: Sequence[Mapping[str, Any]], rejected: Sequence[Mapping[str, Any]]) -> int:
    """Messages of the prompt. Of two equal conversations it is all but the last: the pair is known by its tokens."""
    both = enumerate(zip(chosen, rejected, strict=False))
    shared = next((number for number, (one, other) in both if one != other), min(len(chosen), len(rejected)))
    if shared == len(chosen) == len(rejected):
        shared -= 1
    elif shared < min(len(chosen), len(rejected)):
        _check_are_answers(chosen[shared], rejected[shared], shared + 1)
    if not shared:
        raise ValueError("`chosen` and `rejected` begin with an answer: there is no prompt")
    return shared


def _check_are_answers(chosen: Mapping[str, Any], rejected: Mapping[str, Any], number: int) -> None:
    for name, message in zip(SIDES, (chosen, rejected), strict=True):
        if message["role"] != "assistant":
            words = f"they differ from message {number} on, which is from `{message['role']}` in `{name}`"
            raise ValueError(f"`chosen` and `rejected` must have the same prompt: {words}")


def _without_prompt(conversation: Conversation, num_shared: int) -> Conversation:
    return dataclasses.replace(conversation, untrained=conversation.untrained.union(range(num_shared)))
