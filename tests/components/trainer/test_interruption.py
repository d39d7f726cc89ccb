"""A run that is asked to end saves its state, says so with 75, and goes on later as if it had never stopped."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.quick_trainers import StartTrainer, quick_trainers
from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model, metrics_of, model_bytes
from tunewright.contracts.errors import InvalidExperiment
from tunewright.trainer.interruption import Interruption, NodeDirectory, grace_seconds, hear_signals, interruptible
from tunewright.trainer.job import open_job
from tunewright.trainer.node import interrupted_exit_code, run_node
from tunewright.trainer.training import run_training

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def start() -> Iterator[StartTrainer]:
    with quick_trainers() as start:
        yield start


def make(root: Path, run: str, rows: int = 24, **arguments: Any) -> Path:
    model = make_model(root / "model", attention_dropout=0.2)
    cache = root / f"cache-{rows}"
    if not cache.is_dir():
        make_cache(cache, make_conversations(rows))
    return make_job(root, model, next(cache.iterdir()), run=run, **arguments)


def summary_of(job: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.parent / "training.json").read_text())
    return found


def has_more_lines(path: Path, number: int) -> bool:
    return path.exists() and path.read_text().count("\n") > number


def test_a_run_that_gets_sigterm_or_sigusr1_saves_its_step_ends_with_75_and_goes_on_to_the_same_bytes(
    tmp_path: Path, start: StartTrainer
) -> None:
    torch.set_num_threads(1)  # as in the processes below
    whole, stopped = make(tmp_path, "whole", max_steps=60), make(tmp_path, "stopped", max_steps=60)
    run_training(open_job(whole))
    for number, lines in ((signal.SIGTERM, 5), (signal.SIGUSR1, 20)):
        trainer = start(stopped)
        trainer.wait_until(partial(has_more_lines, stopped.parent / "metrics.jsonl", lines))
        trainer.send(number)
        assert trainer.wait() == 75
        step = metrics_of(stopped)[-1]["step"]
        assert lines <= step < 60
        assert summary_of(stopped)["error"] == f"stopped by {number.name} after step {step}; its checkpoint is saved"
        assert (stopped.parent / "checkpoints" / f"step-{step:06}" / "checkpoint.json").is_file()
        assert trainer.said.count("Traceback") == 0
    assert run_node(stopped) == 0
    assert summary_of(stopped)["resumed_from_step"] == step
    assert model_bytes(stopped) == model_bytes(whole)
    assert [line["loss"] for line in metrics_of(stopped)] == [line["loss"] for line in metrics_of(whole)]


def test_a_step_that_is_not_over_by_the_deadline_is_given_up(tmp_path: Path, start: StartTrainer) -> None:
    job = make(tmp_path, "slow", rows=3000, max_steps=2, batch_size=3000, micro_batch_size=1)
    trainer = start(job, TUNEWRIGHT_GRACE_SECONDS="0.5")
    trainer.wait_until(lambda: "steps: 2" in trainer.said)
    time.sleep(0.5)
    trainer.send(signal.SIGTERM)
    assert trainer.wait() == 128 + signal.SIGTERM, "there is no checkpoint to go on from"
    assert "stopped by SIGTERM without another checkpoint" in trainer.said
    assert summary_of(job)["error"] == "stopped by SIGTERM without another checkpoint"
    assert not (job.parent / "metrics.jsonl").exists(), "it waited for the end of the step"


def test_an_interrupted_run_is_to_be_requeued_where_it_has_a_whole_checkpoint(tmp_path: Path) -> None:
    job = open_job(make(tmp_path, "run"))
    checkpoint = job.run_dir.checkpoints / "step-000004"
    checkpoint.mkdir(parents=True)
    assert interrupted_exit_code(job, signal.SIGUSR1) == 128 + signal.SIGUSR1
    (checkpoint / "checkpoint.json").write_text("{}")
    assert interrupted_exit_code(job, signal.SIGUSR1) == 75


def test_as_long_as_there_is_nothing_to_save_the_end_does_not_wait_for_the_deadline() -> None:
    ended = threading.Event()
    before, after = Interruption(lambda number: ended.set()), Interruption(lambda number: ended.set())
    after.begin()
    after.ask(signal.SIGTERM, time.monotonic() + 60)
    assert not ended.wait(0.2)
    before.ask(signal.SIGTERM, time.monotonic() + 60)
    assert ended.wait(10)
    assert before.signal == after.signal == signal.SIGTERM


def test_a_signal_is_heard_while_the_main_thread_is_busy_and_handlers_are_put_back() -> None:
    handler, heard = signal.getsignal(signal.SIGTERM), threading.Event()
    with hear_signals(lambda number: heard.set() if number == signal.SIGUSR1 else None):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert heard.wait(10)
        child = os.fork()
        if child == 0:  # a library's worker: its end is none of ours
            heard.clear()
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(10)
            os._exit(0)
        heard.clear()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGUSR1
        assert not heard.wait(0.3)
    assert signal.getsignal(signal.SIGTERM) is handler


def test_processes_of_a_node_end_by_its_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_NODE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("RANK", "1")
    node, ended = NodeDirectory(tmp_path), threading.Event()
    with interruptible(lambda number: ended.set()) as interruption:
        interruption.begin()
        node.interrupt(signal.SIGTERM, time.monotonic() + 0.5)
        assert ended.wait(10)
        assert interruption.signal == signal.SIGTERM


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_grace_that_is_no_number_of_seconds_is_named(text: str) -> None:
    assert grace_seconds({}) == 25
    assert grace_seconds({"TUNEWRIGHT_GRACE_SECONDS": "1.5"}) == 1.5
    with pytest.raises(InvalidExperiment, match=f"TUNEWRIGHT_GRACE_SECONDS={text}: must be a number of seconds"):
        grace_seconds({"TUNEWRIGHT_GRACE_SECONDS": text})
