"""A whole training: what it leaves in the run's directory."""

from __future__ import annotations

import json
import types
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from conformance.tiny_jobs import (
    CHAT_TEMPLATE,
    make_cache,
    make_conversations,
    make_job,
    make_model,
    metrics_of,
    model_bytes,
    save_weights,
)
from tunewright.contracts.files import sha256_of_file, sha256_of_tree
from tunewright.contracts.hookspecs import hookimpl
from tunewright.trainer.job import open_job
from tunewright.trainer.summary import installed_packages
from tunewright.trainer.training import run_training

METRICS = [
    "step", "max_steps", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "tokens_per_second", "padding_ratio",
    "elapsed_seconds", "peak_memory_bytes", "seconds",
]  # fmt: skip


def make(root: Path, **arguments: Any) -> Path:
    model = make_model(root / "model")
    if arguments.get("weights") == "pretrained":
        save_weights(model)
    cache = make_cache(root / "cache", make_conversations(16), packed=[[row, row + 1] for row in range(0, 16, 2)])
    return make_job(root, model, cache, **{"packing": True, "num_epochs": 10, **arguments})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that was trained to its end."""
    job = make(tmp_path_factory.mktemp("finished"), warmup_ratio=0.1)
    run_training(open_job(job))
    return job


def test_the_loss_falls(finished: Path) -> None:
    losses = [line["loss"] for line in metrics_of(finished)]
    assert losses[-1] < losses[0] / 2


def test_every_step_has_a_line_with_these_numbers(finished: Path) -> None:
    lines = metrics_of(finished)
    assert [list(line) for line in lines] == [METRICS] * 20
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert {line["max_steps"] for line in lines} == {20}
    assert [line["epoch"] for line in lines[:3]] == [0.5, 1.0, 1.5]
    assert lines[1]["tokens"] == sum(len(one.ids) for one in make_conversations(16))
    assert all(line["tokens_per_second"] > 0 and line["padding_ratio"] == 0 for line in lines)


def test_the_model_loads_with_transformers_and_says_how_to_chat(finished: Path) -> None:
    directory = finished.parent / "model"
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.config.vocab_size == 128
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (directory / "generation_config.json").is_file()
    assert not list(finished.parent.glob(".*"))


def test_the_model_card_and_its_twin_for_machines_say_where_it_comes_from(finished: Path) -> None:
    card = (finished.parent / "model" / "README.md").read_text()
    origin = json.loads((finished.parent / "model" / "tunewright.json").read_text())
    last_loss = metrics_of(finished)[-1]["loss"]
    for words in (
        "c" * 40,
        origin["dataset_digest"],
        origin["experiment_digest"],
        "variant `full`",
        f"{last_loss:.4f}",
    ):
        assert words in card
    assert (origin["variant"], origin["steps"], origin["last_loss"]) == ("full", 20, last_loss)


def test_the_record_is_complete_and_says_it_succeeded(finished: Path) -> None:
    record = json.loads((finished.parent / "provenance.json").read_text())
    assert record["outcome"]["state"] == "SUCCEEDED"
    assert record["outcome"]["started_at"] < record["outcome"]["ended_at"]
    assert record["code"]["commit"] == "c" * 40
    assert record["environment"]["packages"]["torch"]
    assert record["environment"]["python"].startswith("3.11")
    assert record["hardware"]["cpu_cores"] >= 1
    assert record["model"]["sha256"] == sha256_of_tree(finished.parents[2] / "model")  # the job did not know it
    assert record["randomness"]["seeds"]["experiment"] == 17
    assert record["randomness"]["determinism"]["use_deterministic_algorithms"] is True
    assert record["randomness"]["determinism"]["not_deterministic"]
    assert record["metrics"]["steps"] == 20
    assert record["metrics"]["last_loss"] < record["metrics"]["first_loss"]
    assert [one["step"] for one in record["checkpoints"]] == [18, 20]
    files = {one["file"]: one["sha256"] for one in record["model_files"]}
    assert files["model.safetensors"] == sha256_of_file(finished.parent / "model" / "model.safetensors")


def test_the_log_says_what_is_trained_and_each_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_training(open_job(make(tmp_path, num_epochs=1, batch_size=8, micro_batch_size=2, variant="lora")))
    out = capsys.readouterr().out
    assert "32,768 trained" in out
    assert "16 conversations in 8 packed rows" in out
    assert "8 rows x up to 64 tokens = up to 512 tokens a step = 1 process x 2 rows x accumulation 4" in out
    assert "step 1/1  loss " in out


def test_lines_are_logged_as_often_as_asked_and_for_the_last_step(tmp_path: Path) -> None:
    job = make(tmp_path, max_steps=8, num_epochs=None, log_every_steps=3)
    run_training(open_job(job))
    assert [line["step"] for line in metrics_of(job)] == [3, 6, 8]


def test_listeners_hear_of_each_checkpoint_and_of_the_end_and_cannot_harm_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard: list[Any] = []
    listener = types.ModuleType("listener")

    @hookimpl
    def tunewright_checkpoint_saved(checkpoint: Any, job: Any) -> None:
        assert (Path(checkpoint.path) / "checkpoint.json").is_file()
        heard.append((job.run, checkpoint.step))

    @hookimpl
    def tunewright_run_finished(record: Any) -> None:
        heard.append(record.outcome.state)
        raise RuntimeError("the page is down")

    listener.tunewright_checkpoint_saved = tunewright_checkpoint_saved  # type: ignore[attr-defined]  # a module by hand
    listener.tunewright_run_finished = tunewright_run_finished  # type: ignore[attr-defined]  # a module by hand
    job = open_job(make(tmp_path, num_epochs=2))
    job.host.register(listener, "listener")
    run_training(job)
    assert heard == [("run", 2), ("run", 4), "SUCCEEDED"]
    assert "the page is down" in capsys.readouterr().err


def test_pretrained_weights_are_where_training_starts(tmp_path: Path) -> None:
    job = make(tmp_path, weights="pretrained", num_epochs=1, learning_rate=1e-30)
    run_training(open_job(job))
    from safetensors.torch import load

    (trained,) = model_bytes(job).values()
    start = load((tmp_path / "model" / "model.safetensors").read_bytes())
    assert all(tensor.equal(start[name]) for name, tensor in load(trained).items())


def test_running_a_finished_job_again_gives_the_same_model(tmp_path: Path) -> None:
    job = make(tmp_path, num_epochs=2)
    run_training(open_job(job))
    first = model_bytes(job)
    run_training(open_job(job))
    assert model_bytes(job) == first
    assert len(metrics_of(job)) == 4


def test_installed_packages_are_those_that_pythons_own_library_tells_of() -> None:
    expected = {one.name: one.version for one in metadata.distributions() if one.name}
    assert installed_packages() == expected
    assert list(installed_packages()) == sorted(expected, key=str.lower)
