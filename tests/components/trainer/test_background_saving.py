"""Checkpoints that are written while training goes on: the same bytes, and no failure goes unheard."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model, model_bytes
from tunewright.contracts.errors import TunewrightError
from tunewright.trainer.checkpoints import keeper
from tunewright.trainer.checkpoints.host_copies import HostCopies, compact
from tunewright.trainer.checkpoints.saving import write_snapshot
from tunewright.trainer.job import open_job
from tunewright.trainer.training import run_training


def make(root: Path, run: str, background: str, **arguments: Any) -> Path:
    model = make_model(root / "model", attention_dropout=0.2)
    if not (root / "cache").is_dir():
        make_cache(root / "cache", make_conversations(24))
    checkpoint = {"every_steps": 3, "keep_last": 9, "background": background}
    cache = next((root / "cache").iterdir())
    return make_job(root, model, cache, run=run, max_steps=9, checkpoint=checkpoint, **arguments)


def files_of(job: Path) -> dict[str, bytes]:
    directory = job.parent / "checkpoints"
    files = [path for path in sorted(directory.rglob("*")) if path.suffix in (".pt", ".safetensors")]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def test_a_checkpoint_written_later_has_the_bytes_of_one_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    at_once, later = make(tmp_path, "at-once", "never"), make(tmp_path, "later", "always")
    run_training(open_job(at_once))
    two_steps_later, writers = threading.Event(), []

    def slow(directory: Path, snapshot: Any) -> Any:
        writers.append(threading.current_thread())
        if directory.name != "step-000009":
            assert two_steps_later.wait(60), "training did not go on while the checkpoint was written"
        return write_snapshot(directory, snapshot)

    def go_on(job: Any, line: dict[str, Any]) -> None:
        if line["step"] == 5:
            two_steps_later.set()

    monkeypatch.setattr(keeper, "write_snapshot", slow)
    monkeypatch.setattr("tunewright.trainer.observers.MetricsFile.logged", go_on)
    run_training(open_job(later))
    assert threading.main_thread() not in writers
    assert len(writers) == 3
    ours, theirs = files_of(later), files_of(at_once)
    assert sorted(ours) == sorted(theirs)
    assert len(ours) == 9
    for name, content in theirs.items():
        assert ours[name] == content, name
    assert model_bytes(later) == model_bytes(at_once)


@pytest.mark.parametrize("background", ["never", "always"])
def test_a_checkpoint_that_cannot_be_written_ends_the_run_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background: str
) -> None:
    def full(directory: Path, snapshot: Any) -> Any:
        if snapshot.step == 6:
            raise OSError(28, "No space left on device")
        return write_snapshot(directory, snapshot)

    monkeypatch.setattr(keeper, "write_snapshot", full)
    job = make(tmp_path, "run", background)
    with pytest.raises(TunewrightError, match=r"step-000006: process 0: OSError: .*No space left on device"):
        run_training(open_job(job))
    assert "No space left" in json.loads((job.parent / "training.json").read_text())["error"]
    whole = sorted(path.parent.name for path in (job.parent / "checkpoints").glob("*/checkpoint.json"))
    assert whole == ["step-000003"]


def test_copies_do_not_change_with_what_they_are_of_and_parts_are_cut_out(tmp_path: Path) -> None:
    large = torch.arange(100.0)
    part, shared = large[10:20], torch.ones(3)
    copies = HostCopies()
    one, two, number = copies.copy("a", part), copies.copy("b", shared), copies.copy("c", 7)
    assert copies.copy("d", shared) is two, "what is kept in two places is written once"
    copies.wait()
    large.zero_()
    assert torch.equal(one, torch.arange(10.0, 20.0))
    assert number == 7
    assert compact("a", part).untyped_storage().nbytes() == 40
    assert compact("a", large).data_ptr() == large.data_ptr()
