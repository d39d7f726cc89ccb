"""How much of each source, in which order, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.dataset_cacher.workbench import Workbench, conversation, visible_below
from tunewright.contracts.errors import InvalidDataset, InvalidExperiment


@pytest.fixture
def numbers(bench: Workbench) -> Workbench:
    """Ten rows that answer with their index."""
    bench.write("ten.jsonl", [conversation("number?", str(number)) for number in range(10)])
    return bench


def answers(bench: Workbench, *mix: dict[str, Any], **options: Any) -> list[int]:
    return [int(text.removesuffix("</s>")) for text in bench.trained(bench.provide(*mix, **options))]


def test_all_of_a_source_keeps_its_order(numbers: Workbench) -> None:
    assert answers(numbers, {"source": "ten.jsonl"}) == list(range(10))


def test_a_part_is_numpys_choice_by_the_seed(numbers: Workbench) -> None:
    chosen = np.random.RandomState(17).choice(10, 4, replace=False).tolist()
    assert answers(numbers, {"source": "ten.jsonl", "rows": 4}) == chosen
    assert answers(numbers, {"source": "ten.jsonl", "fraction": 0.4}) == chosen
    assert answers(numbers, {"source": "ten.jsonl", "rows": 4}, seed=18) != chosen


def test_more_than_there_is_repeats_in_order_with_a_note(
    numbers: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    rest = np.random.RandomState(17).choice(10, 5, replace=False).tolist()
    assert answers(numbers, {"source": "ten.jsonl", "fraction": 2.5}) == [*range(10), *range(10), *rest]
    assert "dataset.mix[0]: 25 rows are asked for and 10 are there: 15 are repeats" in capsys.readouterr().err
    provided = numbers.provide({"source": "ten.jsonl", "fraction": 2.5})
    assert provided.dataset.sources[0]["rows_repeated"] == 15


def test_sources_follow_one_another_and_shuffle_mixes_them_by_the_seed(numbers: Workbench) -> None:
    numbers.write("more.jsonl", [conversation("number?", str(number)) for number in range(10, 13)])
    mix = ({"source": "ten.jsonl"}, {"source": "more.jsonl"})
    assert answers(numbers, *mix) == list(range(13))
    first = answers(numbers, *mix, shuffle=True)
    assert first == np.random.RandomState(17).permutation(13).tolist()
    assert sorted(answers(numbers, *mix, shuffle=True, seed=3)) == list(range(13))


def test_a_fraction_that_is_no_row_is_refused(numbers: Workbench) -> None:
    with pytest.raises(InvalidDataset, match=r"dataset.mix\[0\].fraction: 0.01 of 10 rows is not one row"):
        numbers.provide({"source": "ten.jsonl", "fraction": 0.01})


def test_a_fraction_is_not_one_row_short_for_its_binary_digits(bench: Workbench) -> None:
    bench.write("hundred.jsonl", [conversation("a", "b")] * 100)
    assert bench.provide({"source": "hundred.jsonl", "fraction": 0.29}).dataset.rows == 29


def test_rows_without_a_trained_token_are_counted_by_reason_and_said(
    bench: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    question = {"messages": [{"role": "user", "content": "why?"}]}
    bench.write("rows.jsonl", [conversation("a", "b"), question, conversation("x" * 300, "cut away")])
    provided = bench.provide({"source": "rows.jsonl", "fraction": 2.0}, max_length_tokens=64)
    assert provided.dataset.rows == 2
    assert provided.dataset.dropped == {"no_trained_tokens": 4}
    assert "4 of 6 rows are left out: no_trained_tokens" in capsys.readouterr().err
    assert provided.dataset.sources[0]["dropped"] == {"no_trained_tokens": 4}


def test_a_row_that_cannot_be_masked_is_counted_by_its_own_reason(bench: Workbench) -> None:
    template = "{% for m in messages %}#{{ 'long' if m.content | length > 3 else 'short' }}:{{ m.content }}{% endfor %}"
    bench.write("rows.jsonl", [conversation("a", "short"), conversation("a", "b")])
    provided = with_own_template(bench, template).provide({"source": "rows.jsonl"}, template="tokenizer")
    assert bench.trained(provided) == ["short"]
    assert provided.dataset.dropped == {"template_unmaskable": 1}


def test_nothing_left_to_train_on_is_an_error(bench: Workbench) -> None:
    bench.write("rows.jsonl", [{"messages": [{"role": "user", "content": "why?"}]}] * 3)
    with pytest.raises(InvalidDataset, match="no row is left to train on: 3 no_trained_tokens"):
        bench.provide({"source": "rows.jsonl"})
    assert visible_below(bench.cache_root) == []


def test_a_long_conversation_is_cut_at_the_right_end_and_counted(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "word " * 100), conversation("a", "b")])
    cut = bench.provide({"source": "rows.jsonl"}, max_length_tokens=32)
    whole = bench.provide({"source": "rows.jsonl"}, max_length_tokens=1024)
    assert cut.dataset.sources[0]["truncated"] == 1
    assert bench.rows(cut)[0][0] == bench.rows(whole)[0][0][:32]
    assert bench.rows(cut)[0][1] == bench.rows(whole)[0][1][:32]
    assert bench.rows(cut)[1] == bench.rows(whole)[1]


def test_what_is_trained_can_differ_from_source_to_source(bench: Workbench) -> None:
    messages = conversation("a", "b")["messages"] * 2
    bench.write("rows.jsonl", [{"messages": messages}])
    mix = [{"source": "rows.jsonl", "train_on": choice} for choice in ("assistant", "last_assistant", "all")]
    assert bench.trained(bench.provide(*mix)) == [
        "b</s>b</s>",
        "b</s>",
        "<|user|>\na\n<|assistant|>\nb</s>\n<|user|>\na\n<|assistant|>\nb</s>",
    ]


def test_statistics_add_up(numbers: Workbench) -> None:
    provided = numbers.provide({"source": "ten.jsonl"}, {"source": "ten.jsonl", "rows": 3})
    statistics = json.loads((Path(provided.dataset.path) / "statistics.json").read_text())
    rows = numbers.rows(provided)
    assert statistics["rows"] == len(rows) == sum(one["rows"] for one in statistics["length_histogram"]) == 13
    assert statistics["tokens"] == sum(len(ids) for ids, _ in rows) == provided.dataset.tokens
    trained = sum(label >= 0 for _, labels in rows for label in labels)
    assert statistics["trained_tokens"] == trained == provided.dataset.trained_tokens
    assert [source["rows"] for source in statistics["sources"]] == [10, 3]
    assert statistics["length_tokens"]["max"] == max(len(ids) for ids, _ in rows)


def test_a_template_that_cannot_render_is_named_with_the_row_and_its_own_words(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b"), {"messages": [{"role": "elf", "content": "x"}]}])
    template = "{% for m in messages %}{% if m.role == 'elf' %}{{ raise_exception('no elves') }}{% endif %}{% endfor %}"
    refused = with_own_template(bench, template)
    with pytest.raises(InvalidDataset, match=r"rows.jsonl:2: chat template `tokenizer` cannot render it: no elves"):
        refused.provide({"source": "rows.jsonl"}, template="tokenizer")
    broken = with_own_template(bench, "{% for m in messages %}")
    with pytest.raises(InvalidDataset, match="chat template `tokenizer` is not Jinja: line 1"):
        broken.provide({"source": "rows.jsonl"}, template="tokenizer")


def with_own_template(bench: Workbench, template: str | None, **tokens: str) -> Workbench:
    model = bench.project / f"model-{len(list(bench.project.iterdir()))}"
    model.mkdir()
    (model / "tokenizer.json").write_bytes((bench.model / "tokenizer.json").read_bytes())
    config = {"eos_token": "</s>", **tokens, **({"chat_template": template} if template is not None else {})}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    return Workbench(bench.project, model, bench.cache_root)


def test_a_tokenizer_without_a_template_is_refused_with_what_is_allowed(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    with pytest.raises(
        InvalidExperiment, match=r"the tokenizer has no chat template.*\n.*chatml, .*simple_chat, .*tulu"
    ):
        with_own_template(bench, None).provide({"source": "rows.jsonl"}, template="tokenizer")


def test_a_special_token_that_the_tokenizer_does_not_have_is_refused(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    with pytest.raises(InvalidExperiment, match=r"eos_token: `<\|end\|>` is not in tokenizer.json"):
        with_own_template(bench, None, eos_token="<|end|>").provide({"source": "rows.jsonl"})


def test_a_model_directory_without_a_tokenizer_is_refused_in_words(bench: Workbench, tmp_path: Path) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    with pytest.raises(InvalidExperiment, match=r"model.name_or_path: .* has no tokenizer.json"):
        Workbench(bench.project, tmp_path, bench.cache_root).provide({"source": "rows.jsonl"})
