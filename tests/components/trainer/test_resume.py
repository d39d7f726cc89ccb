"""A run that is killed goes on from its newest whole checkpoint, to the same bytes."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.quick_trainers import StartTrainer, quick_trainers
from conformance.tiny_jobs import (
    make_cache,
    make_conversations,
    make_job,
    make_model,
    metrics_of,
    model_bytes,
)
from tunewright.contracts.errors import CheckpointCorrupted, IntegrityError
from tunewright.trainer.checkpoints.finding import find_checkpoint, whole_checkpoints
from tunewright.trainer.checkpoints.random_states import (
    process_seed,
    random_state,
    restore_random_state,
    seed_everything,
)
from tunewright.trainer.job import open_job
from tunewright.trainer.metrics import forget_later_lines
from tunewright.trainer.node import run_node
from tunewright.trainer.training import run_training


def make(root: Path, run: str = "run", **arguments: Any) -> Path:
    """A job whose model has dropout, on the same data whatever the run."""
    model = make_model(root / "model", attention_dropout=0.2)
    if not (root / "cache").is_dir():
        make_cache(root / "cache", make_conversations(24), packed=[[row, row + 1] for row in range(0, 24, 2)])
    cache = next((root / "cache").iterdir())
    return make_job(root, model, cache, run=run, packing=True, **{"max_steps": 12, **arguments})


def names(job: Path) -> list[str]:
    return [path.name for path in whole_checkpoints(job.parent / "checkpoints")]


@pytest.fixture
def start() -> Iterator[StartTrainer]:
    with quick_trainers() as start:
        yield start


@pytest.mark.timeout(180)
def test_a_run_killed_at_any_step_ends_with_the_bytes_of_one_that_was_not(tmp_path: Path, start: StartTrainer) -> None:
    torch.set_num_threads(1)  # as in the process below
    options = {"variant": "lora", "options": {"rank": 4, "dropout": 0.2}, "max_steps": 60}
    whole = make(tmp_path, "whole", checkpoint={"every_steps": 5}, **options)
    killed = make(tmp_path, "killed", checkpoint={"every_steps": 5}, **options)
    run_training(open_job(whole))

    trainer, stop_at = start(killed), random.randint(7, 45)
    print("killing after step", stop_at)
    trainer.wait_until(lambda: len(lines_of(killed)) >= stop_at)
    trainer.kill()
    assert not (killed.parent / "model").exists()

    assert run_node(killed) == 0
    assert json.loads((killed.parent / "training.json").read_text())["resumed_from_step"] >= 5
    assert model_bytes(killed) == model_bytes(whole)
    assert [line["step"] for line in metrics_of(killed)] == list(range(1, 61))
    assert [line["loss"] for line in metrics_of(killed)] == [line["loss"] for line in metrics_of(whole)]


def lines_of(job: Path) -> list[str]:
    path = job.parent / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def test_two_runs_of_one_experiment_give_the_same_bytes(tmp_path: Path) -> None:
    one, two, other = make(tmp_path, "one"), make(tmp_path, "two"), make(tmp_path, "other", seed=18)
    for job in (one, two, other):
        run_training(open_job(job))
    assert model_bytes(one) == model_bytes(two)
    assert model_bytes(one) != model_bytes(other)


def test_only_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    job = make(tmp_path, checkpoint={"every_steps": 2, "keep_last": 3})
    run_training(open_job(job))
    assert names(job) == ["step-000008", "step-000010", "step-000012"]
    assert sorted(path.name for path in (job.parent / "checkpoints").iterdir()) == names(job)


def test_a_checkpoint_after_each_pass_over_the_data_and_after_the_last_step_is_the_default(tmp_path: Path) -> None:
    job = make(tmp_path, max_steps=7, checkpoint={"keep_last": 9})  # 12 packed rows, 4 a step: 3 steps a pass
    run_training(open_job(job))
    assert names(job) == ["step-000003", "step-000006", "step-000007"]


def test_a_run_that_died_while_it_wrote_its_model_trains_nothing_again(tmp_path: Path) -> None:
    job = make(tmp_path, max_steps=7)
    run_training(open_job(job))
    written = model_bytes(job)
    shutil.rmtree(job.parent / "model")
    (job.parent / "provenance.json").unlink()
    assert run_node(job) == 0
    assert model_bytes(job) == written
    assert json.loads((job.parent / "training.json").read_text())["resumed_from_step"] == 7
    assert [line["step"] for line in metrics_of(job)] == list(range(1, 8))


def test_checkpoints_are_in_order_of_their_steps_not_of_their_letters(tmp_path: Path) -> None:
    for step in (1_000_000, 999_999, 20):
        (tmp_path / f"step-{step:06}").mkdir()
        (tmp_path / f"step-{step:06}" / "checkpoint.json").write_text("{}")
    assert [path.name for path in whole_checkpoints(tmp_path)] == ["step-000020", "step-999999", "step-1000000"]


def test_torn_checkpoints_are_passed_over_and_cleared_away(tmp_path: Path) -> None:
    job = make(tmp_path, checkpoint={"every_steps": 4})
    run_training(open_job(job))
    expected = model_bytes(job)
    (job.parent / "checkpoints" / "step-000012" / "checkpoint.json").unlink()
    (job.parent / "checkpoints" / ".step-000016.tmp").mkdir()
    found = find_checkpoint(open_job(job))
    assert found is not None
    assert found.manifest.step == 8
    run_training(open_job(job))
    assert names(job) == ["step-000008", "step-000012"]
    assert not list((job.parent / "checkpoints").glob(".*"))
    assert model_bytes(job) == expected


def spoil(file: Path, truncated: bool) -> None:
    """Change one byte of `file`, or cut its second half off."""
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    file.write_bytes(content[:middle] if truncated else content)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_gone_on_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make(tmp_path, checkpoint={"every_steps": 4, "keep_last": 3})
    checkpoints = job.parent / "checkpoints"
    run_training(open_job(job))
    expected, losses = model_bytes(job), [line["loss"] for line in metrics_of(job)]
    files = ["trained-00000-of-00001.safetensors", "optimizer-00000-of-00001.pt", "common.pt", "checkpoint.json"]
    for number, file in enumerate(files, start=1):
        spoil(checkpoints / "step-000012" / file, truncated=number % 2 == 0)
        spoiled = (checkpoints / "step-000012" / file).read_bytes()
        shutil.rmtree(job.parent / "model")
        assert run_node(job) == 0
        said = capsys.readouterr().err
        place = checkpoints / ("damaged-step-000012" if number == 1 else f"damaged-step-000012-{number}")
        assert f"step-000012/{file}: " in said
        assert f"set aside as {place.name}" in said
        assert "going on from step-000008 instead" in said
        assert (place / file).read_bytes() == spoiled, "nothing of it may be lost"
        assert model_bytes(job) == expected
        assert [line["loss"] for line in metrics_of(job)] == losses
        assert names(job) == ["step-000004", "step-000008", "step-000012"]
    record = json.loads((job.parent / "provenance.json").read_text())
    assert [one["name"] for one in record["metrics"]["damaged_checkpoints"]] == [
        "damaged-step-000012", *(f"damaged-step-000012-{number}" for number in (2, 3, 4))
    ]  # fmt: skip
    assert "common.pt" in record["metrics"]["damaged_checkpoints"][2]["problem"]
    assert record["metrics"]["resumed_from"]["checkpoint"] == "step-000008"


def test_a_run_whose_checkpoints_are_all_damaged_never_starts_again_from_nothing(tmp_path: Path) -> None:
    job = make(tmp_path, checkpoint={"every_steps": 6})
    run_training(open_job(job))
    shutil.rmtree(job.parent / "model")
    for name in names(job):
        spoil(job.parent / "checkpoints" / name / "common.pt", truncated=True)
    for _ in range(2):  # the second time nothing but what was set aside is there
        with pytest.raises(CheckpointCorrupted, match=r"step-000012.*/common\.pt: has \d+ bytes") as caught:
            run_node(job)
        assert caught.value.exit_code == 65
        assert "to train anew, remove" in caught.value.hint
        assert "common.pt" in json.loads((job.parent / "training.json").read_text())["error"]
    assert not (job.parent / "model").exists()
    assert sorted(path.name for path in (job.parent / "checkpoints").iterdir()) == [
        "damaged-step-000006", "damaged-step-000012"
    ]  # fmt: skip


def test_every_process_draws_anew_that_has_no_random_state_in_the_checkpoint() -> None:
    seeds = {process_seed(17, rank, step) for rank in range(3) for step in (0, 4, 8)}
    assert len(seeds) == 9
    assert process_seed(17, 1, 4) == process_seed(17, 1, 4)


def test_a_checkpoint_of_another_experiment_is_refused(tmp_path: Path) -> None:
    first, second = make(tmp_path, "first"), make(tmp_path, "second", learning_rate=1e-4)
    run_training(open_job(first))
    shutil.copytree(first.parent / "checkpoints", second.parent / "checkpoints")
    with pytest.raises(IntegrityError, match="another experiment"):
        run_node(second)


def test_the_time_spent_goes_on_where_it_was(tmp_path: Path) -> None:
    job = make(tmp_path, checkpoint={"every_steps": 4})
    run_training(open_job(job))
    shutil.rmtree(job.parent / "checkpoints" / "step-000012")
    run_training(open_job(job))
    elapsed = [line["elapsed_seconds"] for line in metrics_of(job)]
    assert elapsed == sorted(elapsed)
    tokens = [line["tokens"] for line in metrics_of(job)]
    assert tokens == sorted(set(tokens))


def test_metrics_after_the_checkpoint_and_a_torn_last_line_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "lo')
    forget_later_lines(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    forget_later_lines(tmp_path / "none.jsonl", 0)
    assert not (tmp_path / "none.jsonl").exists()


def test_every_random_generator_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    import numpy as np

    def draw() -> tuple[float, float, float, float]:
        return random.random(), random.gauss(0, 1), float(np.random.standard_normal()), float(torch.rand(()))

    seed_everything(3)
    draw()
    torch.save(random_state(), tmp_path / "state.pt")
    expected = [draw() for _ in range(3)]
    seed_everything(4)
    restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [draw() for _ in range(3)] == expected
