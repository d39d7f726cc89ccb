"""Exact match as pure functions: which part of a text is compared, what of it does not count, where answers end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.experiment import EvaluateSpec
from tunewright.trainer.dataset import TokenSequence
from tunewright.trainer.scoring.answers import compared
from tunewright.trainer.scoring.asking import ask, cut_at_end, end_tokens
from tunewright.trainer.scoring.report import counts_of, metrics_of
from tunewright.trainer.scoring.rows import RowResult
from tunewright.trainer.scoring.sharing import batches_of, plan_batches


def settings(**keys: Any) -> EvaluateSpec:
    return EvaluateSpec.model_validate(keys)


@pytest.mark.parametrize(
    ("keys", "text", "answer"),
    [
        ({}, "  so it\n is 7 ", "so it is 7"),
        ({"normalize": []}, " 7 ", " 7 "),
        ({"answer_after": "####"}, "1 + 2 #### 3 no #### 4", "4"),
        ({"answer_after": "####"}, "no marker", None),
        ({"answer_pattern": r"-?\d+"}, "first 12, then -30.", "-30"),
        ({"answer_pattern": r"answer is (\w+)"}, "the answer is A. Or: the answer is B", "B"),
        ({"answer_pattern": r"\d"}, "none", None),
        ({"normalize": ["numbers"]}, "$1,050.00 and 2.50 of 10,00", "1050 and 2.5 of 10,00"),
        ({"normalize": ["case", "punctuation", "whitespace"]}, "The  End!", "the end"),
        ({"normalize": ["punctuation"]}, "3.5", "35"),
        ({"answer_after": "####", "normalize": ["numbers", "whitespace"]}, "#### 72,000\n", "72000"),
    ],
)
def test_the_answer_is_found_and_what_does_not_count_is_left_out(
    keys: dict[str, Any], text: str, answer: str | None
) -> None:
    assert compared(text, settings(**keys)) == answer


def sequence(ids: list[int], *spans: int) -> TokenSequence:
    return TokenSequence(np.array(ids), np.array(spans), number=4)


def test_the_last_span_is_the_answer_and_all_before_it_the_prompt() -> None:
    question = ask(sequence([5, 6, 7, 8, 1, 9, 10, 11, 1], 2, 5, 6, 9), frozenset({1}))
    assert question.prompt.tolist() == [5, 6, 7, 8, 1, 9]
    assert question.reference.tolist() == [10, 11] and question.is_whole
    cut = ask(sequence([5, 6, 7], 1, 3), frozenset({1}))
    assert cut.reference.tolist() == [6, 7] and not cut.is_whole
    with pytest.raises(InvalidExperiment, match="row 4 has no prompt"):
        ask(sequence([5, 6, 1], 0, 3), frozenset({1}))


def test_a_special_token_that_ends_answers_in_the_dataset_ends_those_of_the_model_too() -> None:
    rows = [sequence([5, 6, 9], 1, 3), sequence([5, 6, 7], 1, 3)]
    assert end_tokens(rows, special=[1, 2, 9], eos=[1]) == {1, 9}
    assert cut_at_end([5, 6, 9, 7], frozenset({1, 9})) == [5, 6]
    assert cut_at_end([5, 6], frozenset({1})) == [5, 6]


def test_batches_are_the_same_for_any_number_of_processes_and_lose_no_row() -> None:
    batches = plan_batches([3, 9, 1, 9, 5], 2)
    assert batches == [[1, 3], [4, 0], [2]]
    for processes in (1, 2, 3, 5):
        shares = [batches_of(batches, rank, processes) for rank in range(processes)]
        assert sorted(batch for share in shares for batch in share) == sorted(batches)


def test_the_loss_is_weighed_by_tokens_and_exact_match_by_rows() -> None:
    rows = [
        RowResult(0, 5, 1, 4.0, "a", 1, "a", True, "a", "a", True),
        RowResult(1, 9, 3, 2.0, "b", 2, "c", False, None, "c", False),
    ]
    metrics = metrics_of(rows)
    assert metrics == {"loss": 1.5, "perplexity": pytest.approx(4.4816890703), "exact_match": 0.5}
    assert counts_of(rows) == {
        "rows": 2, "tokens": 14, "trained_tokens": 4, "exact_matches": 1, "generated_tokens": 3, "without_answer": 1,
        "references_without_answer": 0, "references_cut": 1,
    }  # fmt: skip
    assert metrics_of([RowResult(0, 5, 1, 900.0)]) == {"loss": 900.0, "perplexity": None}
