"""torch.compile of the layers: the same training, and checkpoints with the same names."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from components.trainer.tiny_sessions import session_of
from tunewright.contracts.errors import InvalidExperiment
from tunewright.trainer.computing.compiling import compile_layers
from tunewright.trainer.step import run_step

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for CPUs by a C++ compiler")
is_slow = pytest.mark.skipif(
    "TUNEWRIGHT_SLOW_TESTS" not in os.environ, reason="compiles for minutes: set TUNEWRIGHT_SLOW_TESTS to run it"
)


@needs_compiler
@is_slow
@pytest.mark.timeout(600)
def test_compiled_layers_train_as_others_do_whatever_the_lengths(tmp_path: Path) -> None:
    """Three steps, each of other lengths."""
    losses: list[list[float]] = []
    names: list[list[str]] = []
    for compiled in (False, True):
        with session_of(tmp_path / str(compiled), packing=True, compile=compiled, max_steps=3) as session:
            losses.append([])
            for step in range(3):
                losses[-1].append(run_step(session).loss)
                session.progress.step = step + 1
            names.append(list(session.trained.model.state_dict()))
            assert session.called.compiled_layers == (2 if compiled else 0)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert names[0] == names[1]
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0


def test_a_model_without_known_layers_is_refused_in_words() -> None:
    with pytest.raises(InvalidExperiment, match=r"training\.compile: the layers of Linear are not known"):
        compile_layers(torch.nn.Linear(2, 2))
