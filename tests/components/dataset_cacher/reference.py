"""The mask rules once more, slowly and without a template engine: text in pieces, each trained or not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer

EOS = "</s>"
Message = dict[str, Any]
Piece = tuple[str, bool]


def pieces_of(template: str, message: Message, index: int, is_last: bool) -> list[Piece]:
    """The text of one message in order, each piece with whether it is the answer's or its end of turn's."""
    role, content = message["role"], message["content"]
    is_answer = role == "assistant"
    # An answer that opens the conversation has no header before it: open-instruct trains it from the first token.
    is_opening = is_answer and index == 0
    if template == "tulu":
        pieces = [(f"<|{role}|>\n", is_opening), (content + (EOS if is_answer else ""), is_answer)]
        return [*pieces, ("" if is_answer and is_last else "\n", False)]
    if template == "zephyr":
        return [(f"<|{role}|>\n", is_opening), (content + EOS + "\n", is_answer)]
    if template == "chatml":
        return [(f"<|im_start|>{role}\n", is_opening), (content + "<|im_end|>\n", is_answer)]
    assert template == "simple_chat"
    gap = "\n\n" if index else ""
    return [(f"{gap}{role.capitalize()}: ", False), (content + (EOS if is_last else ""), is_answer)]


def labels_of(
    template: str, messages: Sequence[Message], tokenizer: Tokenizer, max_length_tokens: int, last_only: bool = False
) -> tuple[list[int], list[int]]:
    """`input_ids` and `labels`: a token is trained where any of its characters is."""
    last_answer = max((index for index, one in enumerate(messages) if one["role"] == "assistant"), default=-1)
    text, flags = "", []
    for index, message in enumerate(messages):
        counts = index == last_answer or not last_only
        for piece, is_trained in pieces_of(template, message, index, index == len(messages) - 1):
            text += piece
            flags += [is_trained and counts] * len(piece)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    ids = encoding.ids[:max_length_tokens]
    offsets = encoding.offsets[:max_length_tokens]
    return ids, [token if any(flags[start:end]) else -100 for token, (start, end) in zip(ids, offsets, strict=True)]
