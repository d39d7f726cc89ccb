"""Several processes: the same numbers as one, and an end that tells what happened."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from conformance.quick_trainers import StartTrainer, is_alive, quick_trainers
from conformance.tiny_jobs import (
    make_cache,
    make_conversations,
    make_job,
    make_model,
    metrics_of,
    model_bytes,
    run_trainer,
)
from tunewright.contracts.errors import TunewrightError
from tunewright.trainer.job import open_job
from tunewright.trainer.node import cause_of_the_end, rendezvous, shell_exit_code
from tunewright.trainer.training import run_training

pytestmark = pytest.mark.timeout(180)  # each starts several processes, and each of them imports torch


@pytest.fixture
def start() -> Iterator[StartTrainer]:
    with quick_trainers() as start:
        yield start


def make(root: Path, run: str, **arguments: Any) -> Path:
    """A job on 9 conversations: at 4 a step, the last step of an epoch has one, so a process has none."""
    model = make_model(root / "model")
    if not (root / "cache").is_dir():
        make_cache(root / "cache", make_conversations(9))
    return make_job(root, model, next((root / "cache").iterdir()), run=run, **{"num_epochs": 2, **arguments})


def assert_same_training(one: Path, other: Path) -> None:
    """Equal losses and weights, to what another order of adding leaves."""
    for line, same in zip(metrics_of(one), metrics_of(other), strict=True):
        assert line["loss"] == pytest.approx(same["loss"], rel=1e-4)
        assert line["grad_norm"] == pytest.approx(same["grad_norm"], rel=1e-3)
        assert line["tokens"] == same["tokens"]
    (weights,), (others,) = model_bytes(one).values(), model_bytes(other).values()
    for name, tensor in load(weights).items():
        assert tensor.sub(load(others)[name]).abs().max() < 1e-4, name


def test_two_processes_train_as_one_does_also_where_one_has_nothing_to_do(tmp_path: Path) -> None:
    single, double = make(tmp_path, "single"), make(tmp_path, "double", processes=2)
    run_training(open_job(single))
    result = run_trainer("train", double)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("step 1/6") == 1, "only the main process writes to the log"
    assert_same_training(double, single)
    summary = json.loads((double.parent / "training.json").read_text())
    assert summary["num_processes"] == 2
    assert summary["error"] is None


def test_two_nodes_meet_at_the_address_the_cluster_gives(tmp_path: Path, start: StartTrainer) -> None:
    single, nodes = make(tmp_path, "single", variant="lora"), make(tmp_path, "nodes", variant="lora", nodes=2)
    run_training(open_job(single))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {"TUNEWRIGHT_MASTER_ADDRESS": "127.0.0.1", "TUNEWRIGHT_MASTER_PORT": str(port)}
    trainers = [start(nodes, **variables, TUNEWRIGHT_NODE_RANK=str(rank)) for rank in (0, 1)]
    for trainer in trainers:
        assert trainer.wait() == 0, trainer.said
    assert_same_training(nodes, single)


def test_a_loss_that_is_no_number_ends_every_process_with_1_and_the_step_is_named_once(
    tmp_path: Path, start: StartTrainer
) -> None:
    job = make(tmp_path, "diverging", processes=2, learning_rate=1e30, checkpoint={"every_steps": 1})
    trainer = start(job)
    assert trainer.wait() == 1
    assert trainer.said.count("error: step 2: the ") == 1
    assert "hint: lower training.learning_rate" in trainer.said
    assert "Traceback" not in trainer.said
    assert [path.name for path in (job.parent / "checkpoints").iterdir()] == ["step-000001"]
    assert "step 2" in json.loads((job.parent / "training.json").read_text())["error"]
    assert not (job.parent / "model").exists()
    assert not (job.parent / "provenance.json").exists()


def test_a_killed_process_ends_the_node_with_its_signal_and_the_others_with_it(
    tmp_path: Path, start: StartTrainer
) -> None:
    job = make(tmp_path, "killed", processes=2, num_epochs=2000)
    trainer = start(job)
    trainer.wait_until((job.parent / "metrics.jsonl").exists)
    children = trainer.workers
    assert len(children) == 2 and all(map(is_alive, children))
    os.kill(children[1], signal.SIGKILL)
    assert trainer.wait() == 128 + signal.SIGKILL, trainer.said
    assert not any(map(is_alive, children))
    assert "exit code 137" in json.loads((job.parent / "training.json").read_text())["error"]


@pytest.mark.parametrize(
    ("ends", "cause"),
    [
        pytest.param([(0, 1, 0), (1, -9, 0)], 1, id="killed, and the other has lost its connection by then"),
        pytest.param([(0, 1, 0), (1, -9, 1)], 1, id="the same, over the turn of a second"),
        pytest.param([(1, -11, 0), (0, 1, 0)], 1, id="a crash that is noticed first"),
        pytest.param([(1, 65, 0), (0, -15, 0)], 1, id="an error, and the agent has ended the other"),
        pytest.param([(0, 1, 0), (1, -6, 0)], 0, id="an error, and the other's communication has given up"),
        pytest.param([(0, 1, 0), (1, -9, 30)], 0, id="an error, and the other had to be killed for it"),
        pytest.param([(1, 1, 3), (0, 1, 0)], 0, id="two errors: the earlier"),
    ],
)
def test_the_cause_of_an_end_is_what_the_other_processes_died_of(
    tmp_path: Path, ends: list[tuple[int, int, int]], cause: int
) -> None:
    failures = {rank: ProcessFailure(rank, 1, code, str(tmp_path / "none")) for rank, code, _ in ends}
    for rank, _, second in ends:
        failures[rank].timestamp = 1_700_000_000 + second
    assert cause_of_the_end(failures) == (cause, failures[cause])


@pytest.mark.parametrize(("code", "shell"), [(0, 0), (1, 1), (65, 65), (-9, 137), (-15, 143)])
def test_a_signal_is_128_and_its_number_as_in_a_shell(code: int, shell: int) -> None:
    assert shell_exit_code(code) == shell


def test_a_rendezvous_that_the_cluster_did_not_give_is_named() -> None:
    given = {"TUNEWRIGHT_NODE_RANK": "1", "TUNEWRIGHT_MASTER_ADDRESS": "node-0", "TUNEWRIGHT_MASTER_PORT": "29500"}
    assert rendezvous(given) == (1, "node-0:29500")
    with pytest.raises(TunewrightError, match="TUNEWRIGHT_MASTER_PORT"):
        rendezvous({**given, "TUNEWRIGHT_MASTER_PORT": "none"})
    del given["TUNEWRIGHT_MASTER_ADDRESS"]
    with pytest.raises(TunewrightError, match="TUNEWRIGHT_MASTER_ADDRESS"):
        rendezvous(given)
