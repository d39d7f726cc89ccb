"""Columns under other names, and a system prompt for conversations that have none."""

from __future__ import annotations

from typing import Any

import pytest

from components.dataset_cacher.workbench import Workbench, conversation
from tunewright.contracts.errors import InvalidDataset
from tunewright.contracts.plugins import PluginHost
from tunewright.dataset_cacher.chat.conversations import make_conversation
from tunewright.dataset_cacher.inputs import SourceInputs, find_inputs
from tunewright.dataset_cacher.reading.digests import DigestMemory
from tunewright.dataset_cacher.reading.rows import make_quick_reader, make_row_reader, with_system_prompt

PLAIN_ROWS: list[dict[str, Any]] = [
    conversation("a", "b"),
    {**conversation("", "\n"), "id": 7, "tools": None},
    {"messages": [{"content": "first", "role": "assistant"}]},
    {"messages": [{"role": "system", "content": "mine"}, *conversation("a", "b")["messages"]]},
]

OTHER_ROWS: list[dict[str, Any]] = [
    {},
    {"messages": []},
    {"messages": "[]"},
    {"messages": {"role": "user", "content": "a"}},
    {"messages": ["user"]},
    {"messages": [["role", "content"]]},
    {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"role": "user", "content": 7}]},
    {"messages": [{"role": "user"}, {"role": "user", "content": "a", "name": "b"}]},
    {"messages": [{"role": "assistant", "content": "a", "train": False}]},
    {"messages": [{"role": "assistant", "content": "a", "tool_calls": []}]},
    {**conversation("a", "b"), "tools": [{"name": "c"}]},
    {**conversation("a", "b"), "tools": "nonsense"},
]


def test_columns_are_read_under_the_names_of_the_source(bench: Workbench) -> None:
    bench.write("rows.jsonl", [{"q": "why?", "a": "because", "answer": "not this"}])
    columns = {"question": "q", "answer": "a"}
    provided = bench.provide({"source": "rows.jsonl", "format": "question_answer", "columns": columns})
    assert bench.trained(provided) == ["because</s>"]


def test_columns_can_change_places(bench: Workbench) -> None:
    bench.write("rows.jsonl", [{"question": "because", "answer": "why?"}])
    columns = {"question": "answer", "answer": "question"}
    provided = bench.provide({"source": "rows.jsonl", "format": "question_answer", "columns": columns})
    assert bench.trained(provided) == ["because</s>"]


def test_a_row_without_a_renamed_column_is_named(bench: Workbench) -> None:
    bench.write("rows.jsonl", [{"conversation": []}, conversation("a", "b")])
    with pytest.raises(InvalidDataset) as caught:
        bench.provide({"source": "rows.jsonl", "columns": {"messages": "conversation"}})
    assert "rows.jsonl:2: format `messages`: has no `conversation`; it has `messages`" in str(caught.value)
    assert "rows.jsonl:1: format `messages`: `messages` is empty" in str(caught.value)


def test_a_system_prompt_stands_before_conversations_that_have_none(bench: Workbench) -> None:
    own = {"messages": [{"role": "system", "content": "mine"}, *conversation("a", "b")["messages"]]}
    bench.write("rows.jsonl", [conversation("a", "b"), own])
    bench.write("same.jsonl", [{"messages": [{"role": "system", "content": "ours"}, *own["messages"][1:]]}, own])
    prompted = bench.provide({"source": "rows.jsonl", "system_prompt": "ours"})
    assert bench.rows(prompted) == bench.rows(bench.provide({"source": "same.jsonl"}))


def test_a_system_prompt_does_not_move_what_is_not_trained() -> None:
    messages = conversation("a", "b")["messages"]
    messages[1]["train"] = False
    prompted = with_system_prompt(make_conversation(messages), "ours")
    assert prompted.untrained == {2}
    assert [message["role"] for message in prompted.messages] == ["system", "user", "assistant"]


def found_source(bench: Workbench, **options: Any) -> SourceInputs:
    bench.write("rows.jsonl", [conversation("a", "b")])
    request = bench.request({"source": "rows.jsonl", **options})
    return find_inputs(request, PluginHost.discover(), DigestMemory(bench.cache_root)).sources[0]


@pytest.mark.parametrize("options", [{}, {"system_prompt": "ours"}])
@pytest.mark.parametrize("row", PLAIN_ROWS)
def test_what_is_read_quickly_is_what_is_read_thoroughly(
    bench: Workbench, row: dict[str, Any], options: dict[str, Any]
) -> None:
    source = found_source(bench, **options)
    quick, (thorough,) = make_quick_reader(source), make_row_reader(source)(row)
    assert quick is not None and (read := quick([row])) is not None
    assert list(zip(read.roles, read.contents, strict=True)) == [
        (one["role"], one["content"]) for one in thorough.messages
    ]
    assert read.ends == [len(thorough.messages)]
    assert (thorough.untrained, thorough.tools) == (frozenset(), None)


@pytest.mark.parametrize("row", OTHER_ROWS)
def test_rows_that_need_more_than_a_look_are_not_read_quickly(bench: Workbench, row: dict[str, Any]) -> None:
    quick, plain = make_quick_reader(found_source(bench)), conversation("a", "b")
    assert quick is not None and quick([plain]) is not None
    assert quick([row]) is None and quick([plain, row, plain]) is None


def test_rows_are_read_quickly_together_and_each_keeps_its_messages(bench: Workbench) -> None:
    own = {"messages": [{"role": "system", "content": "mine"}, *conversation("c", "d")["messages"]]}
    quick = make_quick_reader(found_source(bench, system_prompt="ours"))
    assert quick is not None and (read := quick([conversation("a", "b"), own])) is not None
    assert read.roles == ("system", "user", "assistant") * 2
    assert read.contents == ["ours", "a", "b", "mine", "c", "d"]
    assert read.ends == [3, 6]


def test_columns_are_renamed_in_quick_reading_too(bench: Workbench) -> None:
    source = found_source(bench, format="question_answer", columns={"question": "answer", "answer": "question"})
    quick = make_quick_reader(source)
    read = None if quick is None else quick([{"answer": "why?", "question": "so"}])
    assert read == (("user", "assistant"), ["why?", "so"], [2])


def test_pairs_are_not_read_quickly(bench: Workbench) -> None:
    bench.write("pairs.jsonl", [{"prompt": "why?", "chosen": "so", "rejected": "no"}])
    assert make_quick_reader(found_source(bench, source="pairs.jsonl", format="preference")) is None
