"""The determinism flags: set or not, as the experiment says, and in the record either way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model
from tunewright.trainer.job import open_job
from tunewright.trainer.training import run_training


@pytest.fixture(autouse=True)
def flags_as_before() -> Any:
    """Leave the process as it was."""
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(before)
    torch.backends.cudnn.benchmark = benchmark


def test_the_flags_are_as_the_experiment_says_and_the_record_says_what_they_were(tmp_path: Path) -> None:
    model, cache = make_model(tmp_path / "model"), make_cache(tmp_path / "cache", make_conversations(4))
    for wanted in (False, True):  # one after the other in one process: the second undoes the first
        job = make_job(tmp_path, model, cache, run=f"deterministic-{wanted}", max_steps=1, deterministic=wanted)
        run_training(open_job(job))
        assert torch.are_deterministic_algorithms_enabled() == wanted
        assert torch.backends.cudnn.benchmark != wanted
        found = json.loads((job.parent / "provenance.json").read_text())["randomness"]["determinism"]
        assert (found["use_deterministic_algorithms"], found["cudnn_benchmark"]) == (wanted, not wanted)
        said = any("training.deterministic is false" in words for words in found["not_deterministic"])
        assert said != wanted
