"""Every row format, and every kind of file."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest
from pyarrow import parquet
from tokenizers import Tokenizer

from components.dataset_cacher.workbench import Workbench, conversation
from tunewright.contracts.errors import InvalidDataset
from tunewright.contracts.plugins import PluginHost, load_entry
from tunewright.dataset_cacher.reading.lines import BLOCK_BYTES
from tunewright.dataset_cacher.tokens.engines import ENGINE_VARIABLE

USER, ANSWER = {"role": "user", "content": "why?"}, {"role": "assistant", "content": "so."}
SYSTEM = {"role": "system", "content": "be brief"}


@pytest.mark.parametrize(
    ("name", "row", "messages"),
    [
        ("messages", {"messages": [USER, ANSWER], "id": 3}, [USER, ANSWER]),
        ("messages", {"messages": json.dumps([USER, ANSWER])}, [USER, ANSWER]),
        ("prompt_completion", {"prompt": "why?", "completion": "so."}, [USER, ANSWER]),
        ("prompt_completion", {"prompt": [SYSTEM, USER], "completion": [ANSWER]}, [SYSTEM, USER, ANSWER]),
        ("question_answer", {"question": "why?", "answer": "so."}, [USER, ANSWER]),
        ("alpaca", {"instruction": "why?", "input": "", "output": "so."}, [USER, ANSWER]),
        ("alpaca", {"instruction": "a", "input": "b", "output": "so.", "system": "be brief"},
         [SYSTEM, {"role": "user", "content": "a\n\nb"}, ANSWER]),
        ("sharegpt", {"conversations": [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "so."}]},
         [USER, ANSWER]),
        ("sharegpt", {"conversations": [{"from": "system", "value": "be brief"}, {"from": "user", "value": "why?"}]},
         [SYSTEM, USER]),
    ],
)  # fmt: skip
def test_a_row_becomes_these_messages(name: str, row: dict[str, Any], messages: list[Any]) -> None:
    formats = PluginHost.discover().dataset_formats
    assert load_entry(formats.get(name).entry, "test")(row) == messages


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("messages", {"text": "x"}, "no `messages`; it has `text`"),
        ("messages", {"messages": []}, "`messages` is empty"),
        ("messages", {"messages": "x"}, "not the JSON of a list"),
        ("messages", {"messages": 3}, "the number 3"),
        ("messages", {"messages": ["x"]}, "message 1 must be an object"),
        ("messages", {"messages": [USER, {"role": "assistant"}]}, "message 2 has no `content`"),
        ("messages", {"messages": [{"content": "x"}]}, "message 1 has no `role`"),
        ("messages", {"messages": [{"role": "user", "content": None}]}, "`content` must be text, got null"),
        (
            "messages",
            {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
            "`content` must be text, got a list",
        ),
        ("messages", {"messages": [{**USER, "train": "no"}]}, "`train` must be true or false"),
        ("messages", {"messages": [USER], "tools": ["bash"]}, "tool 1 must be an object"),
        ("messages", {"messages": [USER], "tools": "{not json"}, "`tools` is text, but not JSON"),
        ("messages", {"messages": [USER], "tools": 3}, "`tools` must be a list of objects, got the number 3"),
        ("messages", {"messages": [{"role": "assistant", "tool_calls": None}]}, "has no `content`"),
        ("question_answer", {"question": "why?"}, "no `answer`"),
        ("question_answer", {"question": "why?", "answer": 42}, "`answer` must be text, got 42"),
        ("prompt_completion", {"prompt": 3, "completion": "x"}, "`prompt` must be text or a list"),
        ("alpaca", {"instruction": "a"}, "no `output`"),
        ("sharegpt", {"conversations": [{"from": "martian", "value": "x"}]}, "'martian'"),
        ("sharegpt", {"conversations": []}, "at least one turn"),
        ("messages", [1], "must be an object"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_by_file_and_line(name: str, row: Any, words: str, bench: Workbench) -> None:
    bench.write("rows.jsonl", [row])
    with pytest.raises(InvalidDataset) as caught:
        bench.provide({"source": "rows.jsonl", "format": name})
    assert "rows.jsonl:1" in str(caught.value) and words in str(caught.value)


def test_every_kind_of_file_gives_the_same_rows(bench: Workbench) -> None:
    rows = [{"question": f"what is {number}?\n", "answer": f'"{number}", é'} for number in range(5)]
    write_every_kind(bench.project, rows)
    seen = [
        bench.rows(bench.provide({"source": f"rows{suffix}", "format": "question_answer"}))
        for suffix in (".jsonl", ".jsonl.gz", ".json", ".object.json", ".csv", ".parquet")
    ]
    assert len(seen[0]) == 5
    assert all(one == seen[0] for one in seen)


def write_every_kind(directory: Path, rows: list[dict[str, str]]) -> None:
    lines = "\n".join(json.dumps(row) for row in rows)
    (directory / "rows.jsonl").write_text(f"\n{lines}\n\n")
    (directory / "rows.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (directory / "rows.json").write_text(json.dumps(rows))
    (directory / "rows.object.json").write_text(json.dumps({"version": 1, "data": rows}))
    with (directory / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["question", "answer"])
        writer.writeheader()
        writer.writerows(rows)
    parquet.write_table(arrow.Table.from_pylist(rows), directory / "rows.parquet")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.jsonl", b'{"question": "a", "answer": "b"}\n{"quest', "rows.jsonl:2: format `question_answer`: is not"),
        ("rows.json", b'{"a": [], "b": []}', "rows.json: must be a list of rows, or an object with one list, got an"),
        ("rows.json", b"[", "rows.json: is not JSON"),
        ("rows.json", b"3", "rows.json: must be a list of rows"),
        ("rows.csv", b'question,answer\na,b\na,"b\nc"\n1,2,3\n', "rows.csv:5: format `question_answer`: has more"),
        ("rows.csv", b"question,answer\na,\xff\n", "rows.csv: cannot be read as csv"),
        ("rows.parquet", b"PAR1 not really", "rows.parquet: cannot be read as parquet"),
        ("rows.jsonl.gz", b"not gzip", "rows.jsonl.gz: cannot be read as jsonl"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named(name: str, content: bytes, words: str, bench: Workbench) -> None:
    (bench.project / name).write_bytes(content)
    with pytest.raises(InvalidDataset) as caught:
        bench.provide({"source": name, "format": "question_answer"})
    assert words in str(caught.value)


def test_many_bad_rows_are_counted_and_the_first_five_shown(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b"), *({"text": "x"} for _ in range(12))])
    bench.write("more.jsonl", [{"messages": []}])
    with pytest.raises(InvalidDataset) as caught:
        bench.provide({"source": "rows.jsonl"}, {"source": "more.jsonl"})
    assert "13 rows cannot be used; the first 5" in str(caught.value)
    assert [problem.path for problem in caught.value.problems] == [f"rows.jsonl:{line}" for line in range(2, 7)]


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize("engine", ["fastokens", "tokenizers"])
def test_half_a_character_is_no_text_and_its_row_is_named(
    engine: str, place: int, bench: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    long = "a " * BLOCK_BYTES  # more than is read at once: after the first rows, several are read together
    rows = [{"messages": json.dumps(conversation(text, "b")["messages"])} for text in (long, long, "d", "e", "f")]
    rows[place]["messages"] = rows[place]["messages"].replace(
        '"b"', r'"\ud800"'
    )  # as JSON has it, in a text of its own
    bench.write("rows.jsonl", rows)
    with pytest.raises(InvalidDataset) as caught:
        bench.provide({"source": "rows.jsonl"})
    assert [problem.path for problem in caught.value.problems] == [f"rows.jsonl:{place + 1}"]


TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
WITH_TOOLS = (
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if m.content is defined else '' }}{{ m.tool_calls | tojson if m.tool_calls else '' }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("kind", ["none", "jsonl", "json text", "parquet"])
def test_the_tools_of_a_row_reach_the_template_and_its_calls_are_trained(
    kind: str, bench: Workbench, tmp_path: Path
) -> None:
    model = shutil.copytree(bench.model, tmp_path / "model")
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": WITH_TOOLS}))
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "add"}]}
    messages = [USER, call, {"role": "tool", "content": "3", "tool_calls": None}, ANSWER]
    tools = {"none": None, "json text": json.dumps(TOOLS)}.get(kind, TOOLS)
    row = {"messages": messages, "tools": tools}
    if kind == "parquet":
        parquet.write_table(arrow.Table.from_pylist([row]), bench.project / "rows.parquet")
    else:
        bench.write("rows.jsonl", [row])
    own = dataclasses.replace(bench, model=model)
    provided = own.provide({"source": f"rows.{'parquet' if kind == 'parquet' else 'jsonl'}"}, template="tokenizer")
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    text = tokenizer.decode(own.rows(provided)[0][0], skip_special_tokens=False)
    named = '{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}\n'
    assert text.startswith("<|im_start|>" if kind == "none" else f"{named}<|im_start|>")
    assert own.trained(provided) == ['[{"name": "add"}]<|im_end|>\nso.<|im_end|>\n']
