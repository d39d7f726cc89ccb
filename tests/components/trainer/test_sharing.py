"""How an optimizer step's pieces are shared among processes and passes, and laid out ahead of time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.trainer.tiny_sessions import session_of
from tunewright.trainer import feeding
from tunewright.trainer.session import Session
from tunewright.trainer.sharing import share_evenly
from tunewright.trainer.step import run_step


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 2000), min_size=1, max_size=40),
    processes=st.integers(1, 5),
    most=st.integers(1, 5),
)
def test_every_piece_has_one_place_and_all_processes_make_as_many_passes(
    sizes: list[int], processes: int, most: int
) -> None:
    shares = share_evenly(sizes, processes, most)
    assert len(shares) == processes
    assert sorted(piece for share in shares for one in share for piece in one) == list(range(len(sizes)))
    assert {len(share) for share in shares} == {-(-len(sizes) // (processes * most))}
    assert all(len(one) <= most and one == sorted(one) for share in shares for one in share)


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(1, 2000), min_size=8, max_size=8),
    most=st.sampled_from([1, 2, 4]),
)
def test_no_process_has_more_than_one_long_piece_more_than_another(sizes: list[int], most: int) -> None:
    totals = [sum(sizes[piece] for one in share for piece in one) for share in share_evenly(sizes, 2, most)]
    assert max(totals) - min(totals) <= max(sizes)


def test_passes_at_the_same_time_have_about_one_length_and_so_have_processes() -> None:
    sizes = [2000, 30, 1500, 60, 40, 1900, 1600, 50]
    shares = share_evenly(sizes, 2, 2)
    rounds = [[sum(sizes[piece] for piece in one) for one in passes] for passes in zip(*shares, strict=True)]
    assert rounds == [[2030, 1940], [1560, 1650]]
    assert sum(sizes) == sum(map(sum, rounds))


def test_a_short_last_step_leaves_passes_empty() -> None:
    assert share_evenly([5, 9], 3, 1) == [[[1]], [[0]], [[]]]


def test_the_next_step_is_laid_out_by_a_thread_while_this_one_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, str]] = []
    real = feeding.plan_step

    def note(session: Session, step: int) -> feeding.StepPlan:
        made.append((step, threading.current_thread().name.split("_")[0]))
        return real(session, step)

    monkeypatch.setattr(feeding, "plan_step", note)
    with session_of(tmp_path, max_steps=3) as session:
        for step in range(3):
            run_step(session)
            session.progress.step = step + 1
    assert made == [(0, "MainThread"), (1, "step-feed"), (2, "step-feed")]


def test_a_step_that_was_not_expected_is_laid_out_as_well(tmp_path: Path) -> None:
    with session_of(tmp_path, max_steps=9) as session:
        session.feed.take(0)
        plan = session.feed.take(5)
        expected = feeding.plan_step(session, 5)
    assert [one.sequences for one in plan.batches] == [one.sequences for one in expected.batches]
    assert plan.num_tokens == sum(one.num_tokens for one in plan.batches)
    assert plan.squared_lengths == sum(length**2 for one in plan.batches for length in one.lengths)
