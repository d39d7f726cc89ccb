"""A training imports no library that it has no use for: each costs every start of a process seconds."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.forking import forking_context
from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model
from tunewright.trainer.lean_imports import import_bitsandbytes, not_installed

pytestmark = pytest.mark.timeout(180)

UNUSED = ("datasets", "deepspeed", "mlflow", "pandas", "tensorboard", "torch._inductor.compile_fx", "trackio", "wandb")


@pytest.mark.parametrize("variant", ["full", "lora", "qlora"])
def test_a_training_imports_nothing_that_it_has_no_use_for(tmp_path: Path, variant: str) -> None:
    cache = make_cache(tmp_path / "cache", make_conversations(4))
    job = make_job(tmp_path, make_model(tmp_path / "model"), cache, variant=variant, max_steps=1)
    # The tests' own process has imported whatever the other tests need.
    ours, theirs = forking_context().Pipe()
    process = forking_context().Process(target=_train_and_look, args=(job, theirs))
    process.start()
    theirs.close()
    assert ours.recv() == []
    process.join()
    assert (job.parent / "provenance.json").is_file()


def _train_and_look(job: Path, pipe: Any) -> None:
    from tunewright.trainer.job import open_job
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
