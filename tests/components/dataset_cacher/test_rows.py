"""Columns under other names, and a system prompt for conversations that have none."""

from __future__ import annotations

import pytest

from components.dataset_cacher.workbench import Workbench, conversation
from tunewright.contracts.errors import InvalidDataset
from tunewright.dataset_cacher.chat.conversations import make_conversation
from tunewright.dataset_cacher.reading.rows import with_system_prompt


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
