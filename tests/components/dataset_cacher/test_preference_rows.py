"""Rows that are preference pairs: every shape they come in, a plugin's own, and what is wrong with them in words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from components.dataset_cacher.workbench import Workbench, conversation
from tunewright.contracts.errors import BrokenPlugin, InvalidDataset
from tunewright.dataset_cacher.chat.pairs import make_pair
from tunewright.dataset_cacher.provide import Provided, provide_dataset

SYSTEM, USER = {"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}
GOOD, BAD = {"role": "assistant", "content": "so."}, {"role": "assistant", "content": "no."}
OPENING = [USER, {"role": "assistant", "content": "hm?"}, {"role": "user", "content": "well?"}]

PLAIN = ["<|user|>\nwhy?\n<|assistant|>\nso.</s>", "<|user|>\nwhy?\n<|assistant|>\nno.</s>"]
"""Both sequences of the plainest pair."""


def pairs(bench: Workbench, *rows: Any, **source: Any) -> Provided:
    """The cache of these rows."""
    bench.write("pairs.jsonl", rows)
    return bench.provide({"source": "pairs.jsonl", "format": "preference", **source})


def texts(bench: Workbench, provided: Provided) -> list[str]:
    """Each sequence as text."""
    tokenizer = Tokenizer.from_file(str(bench.model / "tokenizer.json"))
    return [tokenizer.decode(ids, skip_special_tokens=False) for ids, _ in bench.rows(provided)]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "why?", "chosen": "so.", "rejected": "no."},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD], "id": 3},
        {"prompt": "why?", "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [USER], "chosen": "so.", "rejected": [BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD], "score": 0.5},
        {"prompt": "another column, as ultrafeedback has it", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": None, "chosen": [USER, GOOD], "rejected": [USER, BAD]},
    ],
)
def test_every_shape_of_a_row_gives_the_chosen_and_the_rejected_conversation(row: Any, bench: Workbench) -> None:
    provided = pairs(bench, row)
    assert texts(bench, provided) == PLAIN
    assert bench.trained(provided) == ["so.</s>", "no.</s>"]


def test_the_prompt_is_all_that_both_begin_with_and_none_of_its_answers_is_trained(bench: Workbench) -> None:
    provided = pairs(
        bench,
        {"chosen": [SYSTEM, *OPENING, GOOD], "rejected": [SYSTEM, *OPENING, BAD]},
        {"prompt": OPENING, "chosen": [GOOD], "rejected": [BAD]},
    )
    assert bench.trained(provided) == ["so.</s>", "no.</s>"] * 2
    assert texts(bench, provided)[0].startswith("<|system|>\nbe brief\n<|user|>\nwhy?\n<|assistant|>\nhm?</s>\n")


def test_conversations_that_part_earlier_are_trained_from_there_on_or_only_at_their_end(bench: Workbench) -> None:
    more = {"role": "user", "content": "well?"}
    row = {"chosen": [USER, GOOD, more, GOOD], "rejected": [USER, BAD, more, {"role": "assistant", "content": "oh"}]}
    assert bench.trained(pairs(bench, row)) == ["so.</s>so.</s>", "no.</s>oh</s>"]
    assert bench.trained(pairs(bench, row, train_on="last_assistant")) == ["so.</s>", "oh</s>"]


def test_columns_and_a_system_prompt_are_for_both_sides(bench: Workbench) -> None:
    columns = {"prompt": "question", "chosen": "better", "rejected": "worse"}
    row = {"question": "why?", "better": "so.", "worse": "no.", "chosen": 3}
    provided = pairs(bench, row, columns=columns, system_prompt="be brief")
    assert texts(bench, provided) == [f"<|system|>\nbe brief\n{text}" for text in PLAIN]
    assert bench.trained(provided) == ["so.</s>", "no.</s>"]


def test_answers_to_nothing_are_no_pair() -> None:
    with pytest.raises(ValueError, match="begin with an answer: there is no prompt"):
        make_pair([GOOD], [BAD])
    with pytest.raises(ValueError, match="begin with an answer: there is no prompt"):
        make_pair([GOOD], [GOOD])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "why?", "chosen": "so."}, "has no `rejected`; it has `prompt`, `chosen`"),
        ({"prompt": "why?", "rejected": "so."}, "has no `chosen`; it has `prompt`, `rejected`"),
        ({"prompt": "why?", "chosen": None, "rejected": "so."}, "has no `chosen`"),
        ({"chosen": "so.", "rejected": "no."}, "has no `prompt`; it has `chosen`, `rejected`"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "has no `prompt`"),
        ({"prompt": "why?", "chosen": 3, "rejected": "no."}, "`chosen` must be text or a list of messages"),
        ({"prompt": "why?", "chosen": "so.", "rejected": []}, "`rejected` must be text or a list of messages"),
        ({"prompt": 3, "chosen": "so.", "rejected": "no."}, "`prompt` must be text or a list of messages"),
        ({"chosen": [USER, GOOD], "rejected": [BAD]}, "`chosen` has its prompt in it and the other has not"),
        ({"prompt": "a", "chosen": "so.", "rejected": [USER, BAD]}, "`rejected` has its prompt in it and the other"),
        (
            {"chosen": [USER, GOOD], "rejected": [SYSTEM, USER, BAD]},
            "`chosen` and `rejected` must have the same prompt: they differ from message 1 on, which is from `user` in "
            "`chosen`",
        ),
        (
            {"chosen": [SYSTEM, USER, GOOD], "rejected": [SYSTEM, *OPENING[2:], BAD]},
            "must have the same prompt: they differ from message 2 on, which is from `user` in `chosen`",
        ),
        ({"chosen": [USER, GOOD], "rejected": [USER, USER]}, "which is from `user` in `rejected`"),
        ({"prompt": "why?", "chosen": ["x"], "rejected": [BAD]}, "`chosen`: message 2 must be an object"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [{"role": "assistant"}]}, "`rejected`: message 2 has no"),
        ({"messages": [USER, GOOD]}, "has no `chosen`; it has `messages`"),
        ([1], "must be an object"),
    ],
)
def test_a_row_that_is_no_pair_is_named_by_file_and_line(row: Any, words: str, bench: Workbench) -> None:
    with pytest.raises(InvalidDataset) as caught:
        pairs(bench, {"prompt": "why?", "chosen": "so.", "rejected": "no."}, row)
    assert "pairs.jsonl:2: format `preference`" in str(caught.value) and words in str(caught.value)


def test_a_mix_of_pairs_and_conversations_names_the_two_sources(bench: Workbench) -> None:
    bench.write("pairs.jsonl", [{"prompt": "why?", "chosen": "so.", "rejected": "no."}])
    bench.write("rows.jsonl", [conversation("a", "b")])
    mix = [{"source": name} for name in ("rows.jsonl", "rows.jsonl")]
    with pytest.raises(InvalidDataset) as caught:
        bench.digest(*mix, {"source": "pairs.jsonl", "format": "preference"})
    assert str(caught.value).startswith(
        "dataset.mix: `rows.jsonl` (mix[0], format `messages`) gives conversations, `pairs.jsonl` (mix[2], format "
        "`preference`) gives preference pairs"
    )
    assert caught.value.problems[0].path == "dataset.mix"


def test_pairs_are_not_packed_and_not_trained_beyond_their_answers(bench: Workbench) -> None:
    source = {"source": "pairs.jsonl", "format": "preference"}
    with pytest.raises(InvalidDataset, match=r'dataset.mix\[0\].train_on: must be "assistant" or "last_assistant"'):
        bench.digest({**source, "train_on": "all"})
    request = bench.request(source)
    packed = request.model_copy(update={"dataset": request.dataset.model_copy(update={"packing": True})})
    with pytest.raises(InvalidDataset, match="must be false with preference pairs, got true") as told:
        provide_dataset(packed, bench.cache_root)
    assert told.value.problems[0].path == "dataset.packing" and "end to end" in told.value.hint


STRANGER = """
from tunewright.contracts.dataset_plugins import DatasetFormat
from tunewright.contracts.hookspecs import hookimpl

@hookimpl
def tunewright_register_dataset_formats(register):
    entry = "stranger_with_pairs:read"
    register.add(DatasetFormat("votes", "two answers and votes", entry, 1, 1, conversations_per_row=PER_ROW))

def read(row):
    if row["up"] == row["down"]:
        raise ValueError("nobody voted")
    given = [[{"role": "user", "content": row["q"]}, {"role": "assistant", "content": a}] for a in row["answers"]]
    return given if row["up"] > row["down"] else given[::-1]
"""


@pytest.fixture
def votes(bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """A plugin whose rows are pairs."""
    write_plugin(tmp_path, 2)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stranger_with_pairs", raising=False)
    return bench


def write_plugin(directory: Path, per_row: int) -> None:
    (directory / "stranger_with_pairs.py").write_text(f"PER_ROW = {per_row}\n{STRANGER}")
    metadata = directory / "stranger_with_pairs-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-with-pairs\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[tunewright]\nstranger = stranger_with_pairs\n")


def vote(*answers: str, up: int = 1) -> dict[str, Any]:
    return {"q": "why?", "answers": answers, "up": up, "down": 0}


def test_a_plugins_format_gives_pairs_by_saying_so(votes: Workbench) -> None:
    votes.write("votes.jsonl", [vote("so.", "no."), vote("x", "y", up=-1)])
    provided = votes.provide({"source": "votes.jsonl", "format": "votes"})
    assert votes.trained(provided) == ["so.</s>", "no.</s>", "y</s>", "x</s>"]
    assert votes.manifest(provided).sequences_per_example == 2
    assert provided.key["sources"][0]["format"] == {"name": "votes", "version": 1, "conversations_per_row": 2}


def test_a_plugin_that_gives_another_number_is_named_and_its_own_errors_are_of_the_row(votes: Workbench) -> None:
    votes.write("votes.jsonl", [vote("so.", "no.", "oh.")])
    with pytest.raises(BrokenPlugin, match=r"`votes` of .*stranger-with-pairs.* two lists of messages, chosen and"):
        votes.provide({"source": "votes.jsonl", "format": "votes"})
    votes.write("votes.jsonl", [vote("so.", "no.", up=0)])
    with pytest.raises(InvalidDataset, match=r"votes.jsonl:1: format `votes`: nobody voted"):
        votes.provide({"source": "votes.jsonl", "format": "votes"})


def test_a_plugin_of_three_conversations_a_row_is_refused(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plugin(tmp_path, 3)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "stranger_with_pairs", raising=False)
    bench.write("votes.jsonl", [vote("a", "b", "c")])
    with pytest.raises(BrokenPlugin, match="dataset format `votes`: `conversations_per_row` must be 1 or 2, got 3"):
        bench.digest({"source": "votes.jsonl", "format": "votes"})
