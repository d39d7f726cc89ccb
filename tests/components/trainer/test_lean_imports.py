"""A training imports no library that it has no use for: each costs every start of a process seconds."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model
from tunewright.trainer.job import open_job
from tunewright.trainer.lean_imports import import_bitsandbytes, not_installed

pytestmark = pytest.mark.timeout(180)

UNUSED = ("datasets", "deepspeed", "mlflow", "pandas", "tensorboard", "torch._inductor.compile_fx", "trackio", "wandb")
VARIANTS = ("full", "lora", "qlora")


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What of UNUSED is imported after a training, by variant."""
    root = tmp_path_factory.mktemp("lean")
    model, cache = make_model(root / "model"), make_cache(root / "cache", make_conversations(4))
    jobs = {name: make_job(root, model, cache, run=name, variant=name, max_steps=1) for name in VARIANTS}
    # The tests' own process has imported whatever the other tests need: this begins anew.
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_look_at_each, args=(jobs, theirs))
    process.start()
    theirs.close()
    found: dict[str, list[str]] = ours.recv()
    process.join()
    assert all((job.parent / "provenance.json").is_file() for job in jobs.values())
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_imports_nothing_that_it_has_no_use_for(imported: dict[str, list[str]], variant: str) -> None:
    assert imported[variant] == []


def _look_at_each(jobs: dict[str, Path], pipe: Any) -> None:
    """One process for all variants, each of which is forked off it: it imports what all of them do."""
    import conformance.preloaded  # noqa: F401

    found = {}
    for variant, job in jobs.items():
        ours, theirs = multiprocessing.Pipe()
        multiprocessing.get_context("fork").Process(target=_train_and_look, args=(job, theirs)).start()
        theirs.close()
        found[variant] = ours.recv()
    pipe.send(found)


def _train_and_look(job: Path, pipe: Any) -> None:
    from tunewright.trainer.training import run_training

    run_training(open_job(job))
    assert "torch" in sys.modules
    pipe.send([name for name in UNUSED if name in sys.modules])


def test_what_is_not_installed_for_a_while_is_there_again_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one_that_nobody_needs.py").write_text("NUMBER = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    with not_installed("one_that_nobody_needs"):
        assert importlib.util.find_spec("one_that_nobody_needs") is None
        with pytest.raises(ImportError):
            importlib.import_module("one_that_nobody_needs")
    module = importlib.import_module("one_that_nobody_needs")
    with not_installed("one_that_nobody_needs"):  # it is in use: leaving it out would be a lie
        assert sys.modules["one_that_nobody_needs"] is module
    assert module.NUMBER == 3


def test_torch_compiles_as_before_once_bitsandbytes_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "0")
    import_bitsandbytes()
    assert os.environ["TORCHDYNAMO_DISABLE"] == "0"
    assert torch._dynamo.config.disable is False
