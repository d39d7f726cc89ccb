"""Caches of preference pairs: two sequences beside each other for each pair, whatever is drawn, dropped or cut."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as arrow
import pytest

from components.dataset_cacher.workbench import Workbench, bytes_below, conversation
from tunewright.contracts.errors import InvalidDataset
from tunewright.dataset_cacher.explaining import explain_keys
from tunewright.dataset_cacher.preparation import shards
from tunewright.dataset_cacher.provide import Means, Provided, provide_dataset
from tunewright.dataset_cacher.reading import lines

SOURCE = {"source": "pairs.jsonl", "format": "preference"}


def pair(number: int, **columns: Any) -> dict[str, Any]:
    return {"prompt": f"{number}?", "chosen": f"yes {number}", "rejected": f"no {number}", **columns}


def expected(*numbers: int) -> list[str]:
    """What is trained of the pairs with these numbers."""
    return [f"{word} {number}</s>" for number in numbers for word in ("yes", "no")]


@pytest.fixture
def ten(bench: Workbench) -> Workbench:
    """Ten pairs that know their number."""
    bench.write("pairs.jsonl", [pair(number) for number in range(10)])
    return bench


def numbers_of(bench: Workbench, provided: Provided) -> list[int]:
    """The pairs of a cache in its order, each found whole: chosen, then rejected, of one row of one source."""
    trained, origins = bench.trained(provided), bench.origins(provided)
    numbers = [int(text.removesuffix("</s>").split()[1]) for text in trained[::2]]
    assert trained == expected(*numbers)
    assert origins[::2] == origins[1::2]
    return numbers


def test_a_pair_is_two_sequences_beside_each_other_and_the_manifest_says_so(ten: Workbench) -> None:
    provided = ten.provide(SOURCE)
    assert numbers_of(ten, provided) == list(range(10))
    assert ten.origins(provided) == [(0, number // 2) for number in range(20)]
    manifest = ten.manifest(provided)
    assert (manifest.sequences_per_example, manifest.rows, provided.dataset.rows) == (2, 20, 20)
    assert manifest.sources[0]["rows_available"] == manifest.sources[0]["rows_taken"] == 10


def test_a_part_of_the_rows_is_drawn_repeated_and_filtered_in_pairs(ten: Workbench) -> None:
    drawn = numbers_of(ten, ten.provide({**SOURCE, "rows": 4}))
    assert len(set(drawn)) == 4
    assert numbers_of(ten, ten.provide({**SOURCE, "fraction": 0.4})) == drawn
    repeated = numbers_of(ten, ten.provide({**SOURCE, "fraction": 2.5}))
    assert repeated[:20] == [*range(10), *range(10)] and len(repeated) == 25
    filters = [{"column": "prompt", "is_in": ["3?", "7?"]}]
    assert numbers_of(ten, ten.provide({**SOURCE, "filters": filters})) == [3, 7]


def test_one_split_of_a_directory_is_read(bench: Workbench) -> None:
    bench.write("folder/train.jsonl", [pair(1)])
    bench.write("folder/test.jsonl", [pair(2)])
    provided = bench.provide({"source": "folder", "format": "preference", "split": "test"})
    assert numbers_of(bench, provided) == [2]


def test_shuffling_moves_pairs_and_not_their_sides(ten: Workbench) -> None:
    ten.write("more.jsonl", [pair(number) for number in range(10, 14)])
    mix = SOURCE, {**SOURCE, "source": "more.jsonl"}
    assert numbers_of(ten, ten.provide(*mix)) == list(range(14))
    shuffled = numbers_of(ten, ten.provide(*mix, shuffle=True))
    assert sorted(shuffled) == list(range(14)) and shuffled != list(range(14))
    assert numbers_of(ten, ten.provide(*mix, shuffle=True, seed=3)) != shuffled


LONG = "what? " * 300


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": LONG, "chosen": "a", "rejected": "b"}, "no_trained_tokens"),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "equal_answers"),
        ({"prompt": "a", "chosen": f"{LONG}b", "rejected": f"{LONG}c"}, "equal_answers"),
        (
            {"chosen": [{"role": "user", "content": "a"}], "rejected": conversation("a", "b")["messages"]},
            "no_trained_tokens",
        ),
        (
            {
                "prompt": "a",
                "chosen": "b",
                "rejected": [{"role": "assistant", "content": "c", "train": False}],
            },
            "no_trained_tokens",
        ),
    ],
)
def test_a_pair_of_which_one_side_cannot_be_used_is_left_out_whole(row: Any, reason: str, bench: Workbench) -> None:
    bench.write("pairs.jsonl", [pair(0), row, pair(2)])
    provided = bench.provide(SOURCE)
    assert numbers_of(bench, provided) == [0, 2]
    assert provided.dataset.dropped == {reason: 1}
    assert bench.origins(provided) == [(0, 0), (0, 0), (0, 2), (0, 2)]


def test_one_answer_behind_the_cut_takes_the_other_with_it(bench: Workbench, tmp_path: Path) -> None:
    """Where a template says before the question how long the answer is, one side alone can lose its answer."""
    own = with_template(
        bench,
        tmp_path / "model",
        "{% if 'long' in messages[-1].content %}{{ 'what? ' * 99 }}{% endif %}{% for m in messages %}<{{ m.role }}>"
        "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}",
    )
    odd = {"prompt": "a", "chosen": "b", "rejected": "long"}, {"prompt": "a", "chosen": "long", "rejected": "b"}
    own.write("pairs.jsonl", [odd[0], pair(1), odd[1]])
    provided = own.provide(SOURCE, template="tokenizer", max_length_tokens=64)
    assert provided.dataset.dropped == {"no_trained_tokens": 2}
    assert numbers_of(own, provided) == [1]


def test_a_side_that_cannot_be_masked_takes_the_other_with_it(bench: Workbench, tmp_path: Path) -> None:
    own = with_template(
        bench,
        tmp_path / "model",
        "{% for m in messages %}{% if m.role == 'user' and 'odd' in messages[-1].content %}{{ messages[-1].content }}"
        "{% endif %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}",
    )
    odd = {"prompt": "a", "chosen": "b", "rejected": "odd"}, {"prompt": "a", "chosen": "odd", "rejected": "b"}
    own.write("pairs.jsonl", [odd[0], pair(1), odd[1]])
    provided = own.provide(SOURCE, template="tokenizer")
    assert provided.dataset.dropped == {"template_unmaskable": 2}
    assert numbers_of(own, provided) == [1]


def with_template(bench: Workbench, model: Path, template: str) -> Workbench:
    """The same bench with a tokenizer that brings this template."""
    shutil.copytree(bench.model, model)
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    return replace(bench, model=model)


def test_too_many_left_out_are_counted_in_pairs(bench: Workbench) -> None:
    same = {"prompt": "a", "chosen": "b", "rejected": "b"}
    bench.write("pairs.jsonl", [pair(0), same, same])
    with pytest.raises(InvalidDataset, match=r"2 of 3 rows \(66.7%\) are dropped: 2 equal_answers; allowed are 50"):
        bench.provide(SOURCE, max_dropped_fraction=0.5)
    bench.write("pairs.jsonl", [same])
    with pytest.raises(InvalidDataset, match="no row is left to train on: 1 equal_answers") as caught:
        bench.provide(SOURCE)
    assert "are `chosen` and `rejected` different" in caught.value.hint


def test_no_file_record_batch_or_part_of_the_work_parts_a_pair(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.write("pairs.jsonl", [pair(number) for number in range(300)])
    whole = bench.provide(SOURCE, shuffle=True)
    monkeypatch.setattr(shards, "BATCH_TOKENS", 50)
    monkeypatch.setattr(shards, "SHARD_TOKENS", 700)
    monkeypatch.setattr(lines, "PART_BYTES", 1000)
    monkeypatch.setattr("tunewright.dataset_cacher.preparation.part_encoding.CHUNK_ROWS", 7)
    request = bench.request(SOURCE, shuffle=True)
    roots = [tmp_path / "alone", tmp_path / "together"]
    cut, together = (
        provide_dataset(request, root, means=Means("local", number)) for number, root in enumerate(roots, start=1)
    )
    assert numbers_of(bench, cut) == numbers_of(bench, whole) and bench.rows(cut) == bench.rows(whole)
    manifest = bench.manifest(cut)
    assert len(manifest.shards) > 3 and all(shard.rows % 2 == 0 for shard in manifest.shards)
    for shard in manifest.shards:
        with arrow.memory_map(str(Path(cut.dataset.path) / shard.file)) as file:
            reader = arrow.ipc.open_file(file)
            sizes = [reader.get_batch(index).num_rows for index in range(reader.num_record_batches)]
        assert len(sizes) > 1 and all(size % 2 == 0 for size in sizes)
    assert bytes_below(Path(cut.dataset.path)) == bytes_below(Path(together.dataset.path))


def test_the_packing_plan_keeps_pairs_whole(ten: Workbench) -> None:
    provided = ten.provide(SOURCE, max_length_tokens=32)
    path = Path(provided.dataset.path)
    with arrow.ipc.open_file(str(path / "packing.arrow")) as file:
        plan = file.read_all()["rows"].to_pylist()
    assert sorted(row for packed in plan for row in packed) == list(range(20))
    assert all(packed[::2] == [row - 1 for row in packed[1::2]] for packed in plan)
    lengths = [len(ids) for ids, _ in ten.rows(provided)]
    assert all(sum(lengths[row] for row in packed) <= 64 for packed in plan)
    packing = json.loads((path / "statistics.json").read_text())["packing"]
    assert packing["row_tokens"] == 64 and 0.5 < packing["efficiency"] <= 1.0


def test_the_key_says_that_rows_are_pairs_and_that_of_conversations_says_nothing_new(ten: Workbench) -> None:
    ten.write("rows.jsonl", [conversation("a", "b")])
    pairs, rows = ten.provide(SOURCE, plan_only=True), ten.provide({"source": "rows.jsonl"}, plan_only=True)
    assert pairs.key["sources"][0]["format"] == {"name": "preference", "version": 1, "conversations_per_row": 2}
    assert pairs.key["pairs"] == {"version": 1}
    assert rows.key["sources"][0]["format"] == {"name": "messages", "version": 1}
    assert set(rows.key) == {"cache_format_version", "sources", "seed", "shuffle", "tokenizer", "chat_template",
                             "max_length_tokens", "truncation", "packing", "libraries"}  # fmt: skip
    assert any(one.field == "pairs" for one in explain_keys(pairs.key, rows.key))
    changed = [ten.digest({**SOURCE, "train_on": "last_assistant"}), ten.digest({**SOURCE, "rows": 3})]
    assert len({pairs.dataset.digest, *changed}) == 3


def test_a_cache_of_conversations_is_told_from_one_of_pairs_by_its_manifest(ten: Workbench) -> None:
    ten.write("rows.jsonl", [conversation("a", "b")])
    assert ten.manifest(ten.provide({"source": "rows.jsonl"})).sequences_per_example == 1
