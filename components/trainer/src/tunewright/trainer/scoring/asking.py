"""What the model is asked: the conversation before its last answer, the answer it should give, where answers end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.trainer.dataset import TokenSequence

TokenIds = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Question:
    """One row, divided where its last answer begins."""

    prompt: TokenIds
    """Token ids of the conversation up to the answer, shape (P,); the template's beginning of an answer included."""

    reference: TokenIds
    """Token ids of the answer that is expected, shape (A,), without the token that ends it."""

    is_whole: bool
    """Whether the answer comes to its end, and is not cut where the row is."""


def ask(sequence: TokenSequence, ends: frozenset[int]) -> Question:
    """The question in `sequence`: its last trained span is the answer, `ends` are tokens that end one.

    Raises InvalidExperiment where nothing comes before the answer.
    """
    start, end = (int(edge) for edge in sequence.spans[-2:])
    if start == 0:
        message = f"row {sequence.number} has no prompt before its answer"
        hint = 'leave `exact_match` out of evaluate.metrics, or take `train_on = "assistant"`'
        raise InvalidExperiment.from_problems("the evaluation", [Problem("evaluate.metrics", message, hint)])
    answer = sequence.ids[start:end]
    is_whole = len(answer) > 0 and int(answer[-1]) in ends
    return Question(sequence.ids[:start], answer[: len(answer) - is_whole], is_whole)


def cut_at_end(ids: Sequence[int], ends: frozenset[int]) -> list[int]:
    """`ids` up to the first token that ends an answer."""
    stop = next((place for place, one in enumerate(ids) if one in ends), len(ids))
    return list(ids[:stop])


def end_tokens(sequences: Iterable[TokenSequence], special: Iterable[int], eos: Iterable[int]) -> frozenset[int]:
    """The tokens that end an answer: the tokenizer's and the model's own, and those that end answers in the dataset.

    A chat template may end a turn with a special token of its own (`<|im_end|>`), which the model has learned to write.
    """
    known = frozenset(special)
    last = {int(one.ids[int(one.spans[-1]) - 1]) for one in sequences if len(one.spans)}
    return frozenset(eos) | (last & known)
