"""The packing plan: every row once, none too long, full, and the same everywhere."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from components.dataset_cacher.workbench import Workbench, conversation
from tunewright.contracts.errors import InvalidDataset
from tunewright.dataset_cacher.preparation import shards
from tunewright.dataset_cacher.preparation.packing import PackingPlan, pack, packing_efficiency

REPOSITORY = Path(__file__).resolve().parents[3]


def best_fit_decreasing(lengths: list[int], capacity: int) -> int:
    """How many packed rows the textbook's algorithm needs."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
            rooms.append(min(fitting) - length)
        else:
            rooms.append(capacity - length)
    return len(rooms)


def efficiency(lengths: NDArray[np.uint32], plan: PackingPlan, capacity: int) -> float:
    return packing_efficiency(int(lengths.sum()), len(plan), capacity)


def realistic(num_rows: int, capacity: int) -> NDArray[np.uint32]:
    """A log-normal mix with a mean of about 600 tokens."""
    return np.clip(np.random.RandomState(1).lognormal(6.0, 0.9, num_rows), 1, capacity).astype(np.uint32)


@given(st.lists(st.integers(1, 64), max_size=80))
def test_every_row_is_packed_once_and_as_tightly_as_the_textbook_says(lengths: list[int]) -> None:
    packed = list(pack(lengths, 64))
    assert sorted(row for rows in packed for row in rows) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in rows) <= 64 for rows in packed)
    assert len(packed) == best_fit_decreasing(lengths, 64)
    assert packed == sorted(packed) and all(rows == sorted(rows) for rows in packed)


@given(st.integers(1, 200_000), st.data())
def test_the_plan_is_whole_for_any_lengths_and_capacity(capacity: int, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, capacity), max_size=60))
    plan = pack(np.asarray(lengths, dtype=np.uint32), capacity)
    assert sorted(plan.rows.tolist()) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in rows) <= capacity for rows in plan)
    assert all(rows for rows in plan) and plan[:] == list(plan)
    again = pack(lengths, capacity)
    assert (again.rows.tolist(), again.ends.tolist()) == (plan.rows.tolist(), plan.ends.tolist())


def test_a_row_that_fits_nowhere_is_refused_by_its_number() -> None:
    with pytest.raises(ValueError, match=r"row 1 has 65 tokens, a packed row holds 64"):
        pack([64, 65], 64)


def test_a_realistic_mix_is_packed_almost_full() -> None:
    lengths = realistic(5000, 2048)
    assert 500 < lengths.mean() < 700
    assert efficiency(lengths, pack(lengths, 2048), 2048) > 0.98


def test_the_texts_of_the_standard_library_are_packed_almost_full() -> None:
    path = next(
        path
        for path in (Path("examples/data/stdlib.jsonl"), REPOSITORY / "examples/data/stdlib.jsonl")
        if path.is_file()
    )
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    characters = np.asarray([sum(len(message["content"]) for message in row) for row in rows], dtype=np.uint32)
    for characters_a_token in (1, 3, 4):  # whatever the tokenizer
        lengths = np.minimum(characters // characters_a_token + 10, 2048)
        assert efficiency(lengths, pack(lengths, 2048), 2048) > 0.98


def test_a_plan_is_made_within_32_bytes_a_row() -> None:
    lengths = realistic(200_000, 2048)
    tracemalloc.start()
    plan = pack(lengths, 2048)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(plan.rows) == 200_000 and peak <= 32 * 200_000


def test_the_plan_of_a_cache_is_about_its_rows(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "word " * (number % 7)) for number in range(30)])
    provided = bench.provide({"source": "rows.jsonl"}, max_length_tokens=64)
    with arrow.memory_map(str(Path(provided.dataset.path) / "packing.arrow")) as source:
        table = arrow.ipc.open_file(source).read_all()
    assert str(table.schema) == "rows: list<item: uint32>\n  child 0, item: uint32"
    lengths = [len(ids) for ids, _ in bench.rows(provided)]
    assert table["rows"].to_pylist() == list(pack(lengths, 64))


def test_more_conversations_than_a_plan_can_hold_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MOST_ROWS", 3)
    shards.write_packing(tmp_path, pack(np.full(3, 5, dtype=np.uint32), 16))
    with pytest.raises(InvalidDataset, match="4 conversations are left; a cache holds at most 3"):
        shards.write_packing(tmp_path, pack(np.full(4, 5, dtype=np.uint32), 16))
