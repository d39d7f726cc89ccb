"""Which rows a step takes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tunewright.trainer.dataset import DataOrder


@given(num_rows=st.integers(1, 60), batch_size=st.integers(1, 12), epoch=st.integers(0, 3))
def test_every_epoch_takes_every_row_once(num_rows: int, batch_size: int, epoch: int) -> None:
    order = DataOrder(num_rows, batch_size, seed=3)
    start = epoch * order.steps_per_epoch
    taken = [row for step in range(start, start + order.steps_per_epoch) for row in order.rows_of(step)]
    assert sorted(taken) == list(range(num_rows))


def test_only_the_last_step_of_an_epoch_is_short() -> None:
    order = DataOrder(10, 4, seed=3)
    assert [len(order.rows_of(step)) for step in range(6)] == [4, 4, 2, 4, 4, 2]


def test_the_order_is_decided_by_seed_and_epoch() -> None:
    def first_epoch(seed: int) -> list[int]:
        return DataOrder(50, 50, seed).rows_of(0)

    assert first_epoch(1) == first_epoch(1)
    assert first_epoch(1) != first_epoch(2)
    assert DataOrder(50, 50, 1).rows_of(1) != first_epoch(1)


def test_the_order_of_a_seed_never_changes() -> None:
    """A run must go on after an update: these numbers are part of what a seed means."""
    assert DataOrder(8, 8, 17).rows_of(0) == [1, 0, 6, 4, 2, 7, 5, 3]
