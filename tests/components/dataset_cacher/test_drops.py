"""When too many rows are left out."""

from __future__ import annotations

import pytest

from components.dataset_cacher.workbench import Workbench, conversation
from tunewright.contracts.errors import InvalidDataset
from tunewright.dataset_cacher.preparation.drops import check_dropped

QUESTION = {"messages": [{"role": "user", "content": "why?"}]}


@pytest.mark.parametrize(
    ("dropped", "num_rows", "limit"),
    [({}, 10, 0.0), ({}, 0, 0.0), ({"no_trained_tokens": 3}, 10, 0.3), ({"no_trained_tokens": 9}, 10, 1.0)],
)
def test_up_to_the_limit_rows_may_be_left_out(dropped: dict[str, int], num_rows: int, limit: float) -> None:
    check_dropped(dropped, num_rows, limit)


def test_one_row_above_the_limit_is_an_error_that_names_reasons_limit_and_hint() -> None:
    with pytest.raises(InvalidDataset) as caught:
        check_dropped({"no_trained_tokens": 1, "template_unmaskable": 1_200}, 4_000, 0.3)
    assert str(caught.value) == (
        "dataset.max_dropped_fraction: 1,201 of 4,000 rows (30.0%) are dropped: 1,200 template_unmaskable, "
        "1 no_trained_tokens; allowed are 30.0%\nhint: what `model.chat_template` renders around an answer depends on "
        "what the answer says: choose another, or mark its answers with {% generation %}; if it is meant, raise the "
        "limit"
    )
    assert caught.value.problems[0].path == "dataset.max_dropped_fraction"


def test_nothing_left_is_an_error_whatever_the_limit() -> None:
    with pytest.raises(InvalidDataset, match="no row is left to train on: 3 no_trained_tokens"):
        check_dropped({"no_trained_tokens": 3}, 3, 1.0)


def test_a_preparation_stops_above_the_limit_and_leaves_no_cache(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b"), QUESTION, QUESTION])
    with pytest.raises(InvalidDataset, match=r"2 of 3 rows \(66.7%\) are dropped: 2 no_trained_tokens; allowed are 50"):
        bench.provide({"source": "rows.jsonl"}, max_dropped_fraction=0.5)
    assert not list(bench.cache_root.rglob("manifest.json"))


def test_the_limit_decides_whether_a_cache_is_made_and_not_what_is_in_it(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b"), QUESTION])
    digests = {bench.digest({"source": "rows.jsonl"}, max_dropped_fraction=limit) for limit in (0.0, 0.5, 1.0)}
    assert len(digests) == 1
