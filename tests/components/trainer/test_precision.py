"""On a CPU without instructions for bfloat16 an experiment that asks for it computes in float32, and says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from components.trainer.tiny_sessions import session_of
from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model, metrics_of
from tunewright.trainer.computing import precision
from tunewright.trainer.computing.precision import computed_dtype
from tunewright.trainer.node import run_node
from tunewright.trainer.step import run_step

CPU = torch.device("cpu")


def let_cpu_have_bfloat16(monkeypatch: pytest.MonkeyPatch, has_instructions: bool) -> None:
    monkeypatch.setattr(precision, "has_bfloat16_instructions", lambda: has_instructions)


def test_what_is_computed_in_follows_from_machine_and_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    for has_instructions, on_cpu in ((False, "float32"), (True, "bfloat16")):
        let_cpu_have_bfloat16(monkeypatch, has_instructions)
        assert computed_dtype("bfloat16", "ddp", CPU) == on_cpu
        assert computed_dtype("bfloat16", "ddp", gpu) == "bfloat16"
        assert computed_dtype("bfloat16", "fsdp2", CPU) == "bfloat16"  # rounds the weights themselves
        assert (computed_dtype("float32", "ddp", CPU), computed_dtype("float16", "ddp", gpu)) == ("float32", "float16")


def steps_of(root: Path, dtype: str) -> tuple[list[float], dict[str, Any], list[str]]:
    with session_of(root, dtype=dtype) as session:
        losses = [run_step(session).loss for _ in range(3)]
        assert {one.dtype for one in session.parameters} == {torch.float32}
        assert session.context.dtype is getattr(torch, session.engine.computed_in)
        return losses, session.called.describe()["dtype"], session.called.notes(CPU)


def test_losses_are_those_of_float32_only_where_the_cpu_has_no_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, _, _ = steps_of(tmp_path / "exact", "float32")
    let_cpu_have_bfloat16(monkeypatch, False)
    losses, dtype, notes = steps_of(tmp_path / "without", "bfloat16")
    assert losses == exact
    assert dtype == {"asked": "bfloat16", "computed": "float32"}
    assert notes == ["this CPU has no instructions for bfloat16: float32 is many times faster here"]
    let_cpu_have_bfloat16(monkeypatch, True)
    losses, dtype, notes = steps_of(tmp_path / "with", "bfloat16")
    assert losses != exact
    assert losses == pytest.approx(exact, rel=2e-2)
    assert (dtype["computed"], notes) == ("bfloat16", [])


def test_a_run_records_it_saves_as_ever_and_says_when_a_machine_of_another_kind_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cache, model = make_cache(tmp_path / "cache", make_conversations(12)), make_model(tmp_path / "model")
    options: dict[str, Any] = {"dtype": "bfloat16", "max_steps": 4, "checkpoint": {"every_steps": 2, "keep_last": 9}}
    plain, moved = (make_job(tmp_path, model, cache, run=run, **options) for run in ("plain", "moved"))
    let_cpu_have_bfloat16(monkeypatch, False)
    assert run_node(plain) == 0
    said = capfd.readouterr().out
    assert said.count("computing in float32 on cpu") == 1
    assert said.count("no instructions for bfloat16") == 1
    checkpoint = plain.parent / "checkpoints/step-000002"
    assert json.loads((checkpoint / "checkpoint.json").read_text())["computed_in"] == "float32"
    shutil.copytree(checkpoint, moved.parent / "checkpoints/step-000002")
    let_cpu_have_bfloat16(monkeypatch, True)
    assert run_node(moved) == 0
    record = json.loads((moved.parent / "training.json").read_text())
    assert record["engine"]["computing"]["dtype"]["computed"] == "bfloat16"
    assert record["resumed_from"]["note"].startswith("computes in bfloat16 on this machine, in float32 before")
    assert len(metrics_of(moved)) == 2
    kinds = [
        {one.dtype for one in load_file(run.parent / "model/model.safetensors").values()} for run in (plain, moved)
    ]
    assert kinds == [{torch.float32}] * 2
