"""Which rows there are to choose from, by conditions that are data."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from components.dataset_cacher.workbench import Workbench, conversation
from tunewright.contracts.errors import InvalidDataset
from tunewright.contracts.experiment import RowFilter
from tunewright.dataset_cacher.reading.filters import compile_filters


def keeps(row: dict[str, Any], *filters: dict[str, Any]) -> bool:
    return compile_filters([RowFilter.model_validate(one) for one in filters])(row)


@pytest.mark.parametrize(
    ("value", "condition", "expected"),
    [
        ("en", {"equals": "en"}, True),
        ("de", {"equals": "en"}, False),
        (1, {"equals": True}, False),
        (True, {"equals": True}, True),
        (False, {"equals": False}, True),
        (1.0, {"equals": 1}, True),
        ("1", {"equals": 1}, False),
        ("en", {"not_equals": "en"}, False),
        ("de", {"not_equals": "en"}, True),
        ("b", {"is_in": ["a", "b"]}, True),
        ("c", {"is_in": ["a", "b"]}, False),
        ("c", {"not_in": ["a", "b"]}, True),
        ("a", {"not_in": ["a", "b"]}, False),
        (0.5, {"at_least": 0.5}, True),
        (0.49, {"at_least": 0.5}, False),
        (3, {"at_least": 1, "at_most": 3}, True),
        (4, {"at_least": 1, "at_most": 3}, False),
        ("0.75", {"at_least": 0.5}, True),
        ("é漢", {"min_characters": 2, "max_characters": 2}, True),
        ("abc", {"max_characters": 2}, False),
        (conversation("abc", "de")["messages"], {"min_characters": 5}, True),
        (conversation("abc", "de")["messages"], {"max_characters": 4}, False),
        ([{"from": "human", "value": "abcd"}], {"max_characters": 4}, True),
        (None, {"equals": "en"}, False),
        (None, {"not_equals": "en"}, False),
        (None, {"at_least": 0}, False),
    ],
)
def test_a_condition_holds_or_does_not(value: Any, condition: dict[str, Any], expected: bool) -> None:
    assert keeps({"column": value}, {"column": "column", **condition}) is expected


def test_every_filter_must_hold_and_none_is_asked_after_one_that_does_not() -> None:
    both = ({"column": "lang", "equals": "en"}, {"column": "score", "at_least": 0.5})
    assert keeps({"lang": "en", "score": 0.6}, *both)
    assert not keeps({"lang": "en", "score": 0.4}, *both)
    assert not keeps({"lang": "de"}, *both)
    assert keeps({"anything": 1})


def test_a_path_leads_into_objects_and_a_column_with_a_dot_comes_first() -> None:
    one = {"column": "meta.lang", "equals": "en"}
    assert keeps({"meta": {"lang": "en"}}, one)
    assert keeps({"meta.lang": "en", "meta": {"lang": "de"}}, one)
    assert not keeps({"meta": None}, one)


@pytest.mark.parametrize(
    ("row", "condition", "words"),
    [
        ({"a": 1, "b": 2}, {"equals": 1}, "has no `column`; it has `a`, `b`"),
        ({"column": "much"}, {"at_least": 1}, "`column` must be a number, got 'much'"),
        ({"column": True}, {"at_least": 1}, "`column` must be a number, got True"),
        ({"column": ["x"]}, {"equals": "x"}, "`column` must be text, a number, true or false, got ['x']"),
        ({"column": 3}, {"min_characters": 1}, "`column` must be text or a list of messages, got 3"),
        ({"column": [{"role": "user"}]}, {"min_characters": 1}, "`column` must be text or a list of messages"),
    ],
)
def test_a_row_that_cannot_be_asked_says_why(row: dict[str, Any], condition: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        keeps(row, {"column": "column", **condition})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"equal": "x"}, {"at_least": "0.5"}, {"is_in": []}, {"min_characters": -1}, {"equals": ["x"]}],
)
def test_a_filter_that_says_nothing_or_something_else_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RowFilter.model_validate({"column": "column", **wrong})


def test_sampling_chooses_among_the_rows_that_pass(bench: Workbench) -> None:
    rows = [{**conversation("number?", str(number)), "even": number % 2 == 0} for number in range(10)]
    bench.write("rows.jsonl", rows)
    source = {"source": "rows.jsonl", "filters": [{"column": "even", "equals": True}]}
    assert bench.trained(bench.provide(source)) == [f"{number}</s>" for number in (0, 2, 4, 6, 8)]
    assert [row for _, row in bench.origins(bench.provide(source))] == [0, 2, 4, 6, 8]
    assert bench.provide({**source, "fraction": 2.0}).dataset.rows == 10
    half = bench.trained(bench.provide({**source, "rows": 3}))
    assert len(half) == 3 and set(half) <= {f"{number}</s>" for number in (0, 2, 4, 6, 8)}


def test_a_row_without_the_column_is_named_by_its_place(bench: Workbench) -> None:
    bench.write("rows.jsonl", [{**conversation("a", "b"), "lang": "en"}, conversation("a", "b")])
    with pytest.raises(InvalidDataset, match=r"rows.jsonl:2: .*has no `lang`; it has `messages`"):
        bench.provide({"source": "rows.jsonl", "filters": [{"column": "lang", "equals": "en"}]})
