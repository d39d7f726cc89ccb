"""What is wrong with a job is found before anything is trained, and said in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model, save_weights
from tunewright.contracts.command_line import run_command_line
from tunewright.contracts.errors import CacheCorrupted, InvalidExperiment, NotFound, TunewrightError, UnknownPlugin
from tunewright.contracts.files import write_json_atomically
from tunewright.trainer.cli import trainer
from tunewright.trainer.job import open_job
from tunewright.trainer.node import run_node


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return make_cache(tmp_path / "cache", make_conversations(6))


def change(job: Path, *keys: str, to: Any) -> None:
    """Write another value into `job.json`."""
    document = json.loads(job.read_text())
    at = document
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = to
    job.write_text(json.dumps(document))


def nothing_was_trained(job: Path) -> bool:
    return not {path.name for path in job.parent.iterdir()} & {
        "model",
        "metrics.jsonl",
        "provenance.json",
        "checkpoints",
    }


def test_a_cache_with_a_changed_byte_is_named_and_never_trained_on(tmp_path: Path, model: Path, cache: Path) -> None:
    shard = cache / "tokens-00001.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    job = make_job(tmp_path, model, cache)
    with pytest.raises(CacheCorrupted, match=r"tokens-00001.arrow: sha256") as caught:
        run_node(job)
    assert caught.value.exit_code == 65
    assert nothing_was_trained(job)
    assert "tokens-00001.arrow" in json.loads((job.parent / "training.json").read_text())["error"]


def test_a_cache_that_is_another_than_the_jobs_is_refused(tmp_path: Path, model: Path, cache: Path) -> None:
    job = make_job(tmp_path, model, cache)
    change(job, "dataset", "digest", to="0" * 64)
    with pytest.raises(InvalidExperiment, match="the job asks for 000000000000"):
        run_node(job)


def test_a_job_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no such job"):
        run_node(tmp_path / "job.json")


def test_a_file_that_is_no_job_is_refused_with_every_problem(tmp_path: Path) -> None:
    write_json_atomically(tmp_path / "job.json", {"run": "x", "resources": {"nodes": 0}})
    with pytest.raises(InvalidExperiment) as caught:
        open_job(tmp_path / "job.json")
    assert {problem.path for problem in caught.value.problems} == {"run_dir", "command", "resources.nodes"}


def test_a_job_that_is_no_training_is_refused(tmp_path: Path, model: Path, cache: Path) -> None:
    job = make_job(tmp_path, model, cache)
    change(job, "dataset", to=None)
    with pytest.raises(InvalidExperiment, match="is no training"):
        open_job(job)


def test_an_unknown_variant_is_an_error_that_lists_what_is_installed(tmp_path: Path, model: Path, cache: Path) -> None:
    with pytest.raises(UnknownPlugin, match=r"unknown variant `lorra`; installed: dpo, full, lora, qlora"):
        open_job(make_job(tmp_path, model, cache, variant="lorra"))


def test_every_wrong_option_of_the_variant_is_named_by_its_path(tmp_path: Path, model: Path, cache: Path) -> None:
    with pytest.raises(InvalidExperiment) as caught:
        open_job(make_job(tmp_path, model, cache, variant="lora", options={"rank": 0, "rnak": 8}))
    assert [problem.path for problem in caught.value.problems] == ["training.options.rank", "training.options.rnak"]


@pytest.mark.parametrize("strategy", ["deepspeed_zero3", "fsdp2"])
def test_a_strategy_that_the_variant_cannot_do_is_refused_with_the_reason(
    tmp_path: Path, model: Path, cache: Path, strategy: str
) -> None:
    message = rf"training.strategy: `{strategy}` cannot train variant `qlora` here; possible: ddp, deepspeed_zero2"
    with pytest.raises(InvalidExperiment, match=message) as caught:
        open_job(make_job(tmp_path, model, cache, variant="qlora", strategy=strategy))
    assert "four-bit weights" in str(caught.value)


CASES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"vocab_size": 100}, {}, r"its tokenizer gives 128 different tokens, the model has embeddings for 100"),
    ({}, {"weights": "pretrained"}, r"model.name_or_path: .*model"),
    ({"model_type": "no-such-model"}, {}, r"model.name_or_path"),
    ({}, {"model_options": {"attention": "flash_attention_2"}}, r"model.attention: flash_attention_2 needs a GPU"),
    ({}, {"dtype": "float16"}, r"model.dtype: float16 needs a GPU"),
    ({}, {"variant": "lora", "options": {"target_modules": ["query"]}}, r"`query` matches no layer"),
]


@pytest.mark.parametrize(("config", "arguments", "message"), CASES)
def test_what_the_model_cannot_do_is_one_message_and_78(
    tmp_path: Path, cache: Path, config: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    job = make_job(tmp_path, make_model(tmp_path / "other", **config), cache, **arguments)
    with pytest.raises(InvalidExperiment, match=message) as caught:
        run_node(job)
    assert caught.value.exit_code == 78
    assert not (job.parent / "metrics.jsonl").exists()
    assert not (job.parent / "model").exists()


def test_a_model_directory_without_a_config_is_named(tmp_path: Path, model: Path, cache: Path) -> None:
    (model / "config.json").unlink()
    with pytest.raises(InvalidExperiment, match=str(model)):
        run_node(make_job(tmp_path, model, cache))


def test_weights_that_lack_a_tensor_are_refused_not_filled_with_random_numbers(
    tmp_path: Path, model: Path, cache: Path
) -> None:
    from safetensors.torch import load_file, save_file

    save_weights(model)
    tensors = load_file(model / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidExperiment, match=r"lack 1 tensors of the model: model.layers.1.mlp.up_proj.weight"):
        run_node(make_job(tmp_path, model, cache, weights="pretrained"))


def test_pickled_weights_are_not_opened(tmp_path: Path, model: Path, cache: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    weights = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model)).state_dict()
    torch.save(weights, model / "pytorch_model.bin")
    with pytest.raises(InvalidExperiment, match="safetensors"):
        run_node(make_job(tmp_path, model, cache, weights="pretrained"))


def test_a_hub_that_cannot_be_reached_is_69(
    tmp_path: Path, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    job = make_job(tmp_path, model, cache, weights="pretrained")
    change(job, "model", "name_or_path", to="nobody/nothing")
    change(job, "model", "revision", to="a" * 40)
    with pytest.raises(TunewrightError, match=r"model nobody/nothing at aaaa") as caught:
        run_node(job)
    assert caught.value.exit_code == 69


def test_a_diverging_run_ends_the_command_with_1_and_a_hint(
    tmp_path: Path, model: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(tmp_path, model, cache, learning_rate=1e30, lr_scheduler="constant")
    with pytest.raises(SystemExit) as caught:
        run_command_line(trainer, "trainer", ["train", str(job)])
    assert caught.value.code == 1
    err = capsys.readouterr().err
    assert "error: step 2: the " in err
    assert "hint: lower training.learning_rate" in err
    assert "step 2" in json.loads((job.parent / "training.json").read_text())["error"]
    assert not (job.parent / "model").exists()
