"""The packing plan: every row once, none too long, full, and the same everywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as arrow
from hypothesis import given
from hypothesis import strategies as st

from components.dataset_cacher.workbench import Workbench, conversation
from tunewright.dataset_cacher.packing import pack, packing_efficiency


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


@given(st.lists(st.integers(1, 64), max_size=80))
def test_every_row_is_packed_once_and_as_tightly_as_the_textbook_says(lengths: list[int]) -> None:
    packed = pack(lengths, 64)
    assert sorted(row for rows in packed for row in rows) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in rows) <= 64 for rows in packed)
    assert len(packed) == best_fit_decreasing(lengths, 64)
    assert packed == sorted(packed) and all(rows == sorted(rows) for rows in packed)


def test_a_realistic_mix_is_packed_almost_full() -> None:
    lengths = np.clip(np.random.RandomState(1).lognormal(6, 1, 5000).astype(int), 1, 2048).tolist()
    packed = pack(lengths, 2048)
    assert packing_efficiency(sum(lengths), len(packed), 2048) > 0.98


def test_the_plan_of_a_cache_is_about_its_rows(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "word " * (number % 7)) for number in range(30)])
    provided = bench.provide({"source": "rows.jsonl"}, max_length_tokens=64)
    with arrow.memory_map(str(Path(provided.dataset.path) / "packing.arrow")) as source:
        table = arrow.ipc.open_file(source).read_all()
    assert str(table.schema) == "rows: list<item: uint32>\n  child 0, item: uint32"
    lengths = [len(ids) for ids, _ in bench.rows(provided)]
    assert table["rows"].to_pylist() == pack(lengths, 64)
