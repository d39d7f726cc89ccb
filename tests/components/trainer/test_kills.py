"""Killed in the worst moments, a run goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.quick_trainers import StartTrainer, quick_trainers
from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model, metrics_of, model_bytes
from tunewright.trainer.job import open_job
from tunewright.trainer.training import run_training

pytestmark = pytest.mark.timeout(400)  # each starts several processes, and each of them imports torch


@pytest.fixture
def start() -> Iterator[StartTrainer]:
    with quick_trainers() as start:
        yield start


def make(root: Path, run: str, **arguments: Any) -> Path:
    """A job whose model has dropout, on the same data whatever the run."""
    model = make_model(root / "model", attention_dropout=0.2)
    if not (root / "cache").is_dir():
        make_cache(root / "cache", make_conversations(24))
    return make_job(root, model, next((root / "cache").iterdir()), run=run, **arguments)


def losses_of(job: Path) -> list[float]:
    lines = metrics_of(job)
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def is_begun(directory: Path, name: str) -> bool:
    return (directory / f".{name}.tmp").exists() or (directory / name).exists()


def checkpoints_of(job: Path) -> list[str]:
    return sorted(path.parent.name for path in (job.parent / "checkpoints").glob("step-*/checkpoint.json"))


@pytest.mark.parametrize("background", ["never", "always"])
def test_a_run_killed_again_and_again_while_it_saves_ends_with_the_bytes_of_one_that_was_not(
    tmp_path: Path, start: StartTrainer, background: str
) -> None:
    torch.set_num_threads(1)  # as in the processes below
    checkpoint = {"every_steps": 1, "background": background}
    options = {"variant": "lora", "options": {"rank": 4, "dropout": 0.2}, "max_steps": 30, "checkpoint": checkpoint}
    whole, killed = make(tmp_path, "whole", **options), make(tmp_path, "killed", **options)
    run_training(open_job(whole))

    directory, kills, torn = killed.parent / "checkpoints", 0, 0
    for number in range(1, 5):
        trainer, last = start(killed), f"step-{6 * number:06}"
        # At the moment it begins to write a checkpoint, and a random one in the steps and saves after it.
        trainer.wait_until(partial(is_begun, directory, last))
        time.sleep(random.choice((0.0, random.uniform(0, 0.02))))
        if trainer.is_running:
            trainer.kill()
            kills += 1
            torn += len(list(directory.glob(".step-*.tmp")))
    print(f"{kills} kills, {torn} of them in the middle of a save")
    assert kills >= 2
    assert not (killed.parent / "provenance.json").exists()
    assert start(killed).wait() == 0
    assert model_bytes(killed) == model_bytes(whole)
    assert losses_of(killed) == losses_of(whole)
    assert checkpoints_of(killed) == checkpoints_of(whole) == ["step-000029", "step-000030"]
    assert len(list(directory.iterdir())) == 2, "nothing half-written may stay"
    for file in (directory / "step-000030").iterdir():
        other = whole.parent / "checkpoints" / "step-000030" / file.name
        if file.name not in ("checkpoint.json", "common.pt"):
            assert file.read_bytes() == other.read_bytes(), file.name


def test_a_killed_worker_is_started_again_and_an_interrupted_node_saves_and_asks_to_be_requeued(
    tmp_path: Path, start: StartTrainer
) -> None:
    options: dict[str, Any] = {"processes": 2, "max_steps": 60, "checkpoint": {"every_steps": 4}}
    whole, killed = make(tmp_path, "whole", **options), make(tmp_path, "killed", **options, max_worker_restarts=1)
    assert start(whole).wait() == 0

    trainer = start(killed)
    trainer.wait_until(lambda: len(checkpoints_of(killed)) > 1)
    os.kill(trainer.workers[1], signal.SIGKILL)
    trainer.wait_until(lambda: worker_restarts(killed) == 1)
    resumed_at = summary_of(killed)["resumed_from_step"]
    assert resumed_at >= 4
    trainer.wait_until(lambda: (killed.parent / "metrics.jsonl").read_text().count("\n") > resumed_at + 4)
    trainer.send(signal.SIGUSR1)
    assert trainer.wait() == 75
    stopped = summary_of(killed)
    step = len(losses_of(killed))
    assert stopped["error"] == f"stopped by SIGUSR1 after step {step}; its checkpoint is saved"
    assert step < 60
    assert checkpoints_of(killed)[-1] == f"step-{step:06}"

    assert losses_of(killed) == pytest.approx(losses_of(whole)[:step], rel=1e-6)


def summary_of(job: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.parent / "training.json").read_text())
    return found


def worker_restarts(job: Path) -> int:
    resumed = summary_of(job)["resumed_from"]
    return int(resumed["worker_restarts"]) if resumed else 0
