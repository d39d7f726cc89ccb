"""A run goes on in another number of processes: at the same row, with the same numbers but for the last bits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model, metrics_of
from conformance.world import World, open_world
from tunewright.contracts.errors import IntegrityError
from tunewright.trainer.checkpoints.finding import find_checkpoint
from tunewright.trainer.job import open_job
from tunewright.trainer.node import run_node

pytestmark = pytest.mark.timeout(180)  # processes are started


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world() as world:
        yield world


def make(root: Path, run: str, **arguments: Any) -> Path:
    model = make_model(root / "model")
    if not (root / "cache").is_dir():
        make_cache(root / "cache", make_conversations(25))
    options = {"max_steps": 9, "checkpoint": {"every_steps": 3, "keep_last": 9}, **arguments}
    return make_job(root, model, next((root / "cache").iterdir()), run=run, **options)


def take_checkpoint(source: Path, target: Path, step: int) -> None:
    """What `launch --set cluster.processes_per_node` comes to: another job on the run's checkpoints."""
    name = f"step-{step:06}"
    shutil.copytree(source.parent / "checkpoints" / name, target.parent / "checkpoints" / name)


def losses_of(job: Path) -> list[float]:
    return [line["loss"] for line in metrics_of(job)]


def summary_of(job: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((job.parent / "training.json").read_text())
    return found


def test_one_process_becomes_two_of_another_strategy_and_they_become_one_again(tmp_path: Path, world: World) -> None:
    whole = make(tmp_path, "whole")
    assert run_node(whole) == 0
    double = make(tmp_path, "double", processes=2, micro_batch_size=1, strategy="fsdp2")
    take_checkpoint(whole, double, 3)
    world.train(double)
    assert losses_of(double) == pytest.approx(losses_of(whole)[3:], rel=1e-4)
    assert [line["tokens"] for line in metrics_of(double)] == [line["tokens"] for line in metrics_of(whole)][3:]
    resumed = summary_of(double)["resumed_from"]
    assert resumed["processes"] == {"before": 1, "now": 2}
    assert resumed["strategy"] == {"before": "ddp", "now": "fsdp2"}
    assert "goes on as fsdp2 in 2 processes, saved as ddp in 1: the same rows" in resumed["note"]
    assert "processes from number 1 on draw their dropout anew" in resumed["note"]
    assert resumed["note"] in summary_of(double)["determinism"]["not_deterministic"]

    single = make(tmp_path, "single")
    take_checkpoint(double, single, 6)
    assert run_node(single) == 0
    assert losses_of(single) == pytest.approx(losses_of(whole)[6:], rel=1e-4)
    record = json.loads((single.parent / "provenance.json").read_text())
    assert record["metrics"]["resumed_from"]["processes"] == {"before": 2, "now": 1}
    assert "differ in the last bits" in record["metrics"]["resumed_from"]["note"]


def test_an_uninterrupted_way_of_going_on_says_nothing_of_differences(tmp_path: Path) -> None:
    job = make(tmp_path, "run")
    assert run_node(job) == 0
    shutil.rmtree(job.parent / "checkpoints" / "step-000009")
    assert run_node(job) == 0
    assert "note" not in summary_of(job)["resumed_from"]
    assert len(summary_of(job)["determinism"]["not_deterministic"]) == 2


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        ({"processes": 2}, True),
        ({"micro_batch_size": 1}, True),
        ({"activation_checkpointing": True, "compile": True, "peak_tflops": 3.0, "max_worker_restarts": 4}, True),
        ({"checkpoint": {"every_steps": 2, "background": "always"}}, True),
        ({"learning_rate": 1e-4}, False),
        ({"max_steps": 8}, False),
        ({"seed": 18}, False),
        ({"dtype": "bfloat16"}, False),
        ({"variant": "lora"}, False),
    ],
)
def test_only_what_decides_the_numbers_must_be_the_same(tmp_path: Path, change: dict[str, Any], is_same: bool) -> None:
    first, other = make(tmp_path, "first"), make(tmp_path, "other", **change)
    document = {
        "format_version": 2, "step": 3, "variant": "full", "experiment_digest": "e", "num_processes": 1,
        "continuation_digest": continuation_of(first), "dataset_digest": next((tmp_path / "cache").iterdir()).name,
        "position": {}, "files": [],
    }  # fmt: skip
    checkpoint = other.parent / "checkpoints" / "step-000003"
    checkpoint.mkdir(parents=True)
    (checkpoint / "checkpoint.json").write_text(json.dumps(document))
    if is_same:
        found = find_checkpoint(open_job(other))
        assert found is not None
        assert found.manifest.step == 3
    else:
        with pytest.raises(IntegrityError, match=r"is of another (experiment|variant)"):
            find_checkpoint(open_job(other))


def continuation_of(job: Path) -> str:
    from tunewright.contracts.checkpoints import continuation_digest

    return continuation_digest(open_job(job).experiment)
