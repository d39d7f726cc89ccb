"""Embeddings that are fewer than the tokenizer's tokens, and models that bring code of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from conformance.tiny_jobs import (
    VOCABULARY_SIZE,
    make_cache,
    make_conversations,
    make_job,
    make_model,
    metrics_of,
    model_bytes,
    save_weights,
)
from conformance.variant_suite import cut_short
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.experiment import ModelSpec
from tunewright.trainer.embeddings import grow_embeddings, rows_wanted
from tunewright.trainer.export import export_model
from tunewright.trainer.job import open_job
from tunewright.trainer.training import run_training

GROWING = {"resize_embeddings": "when_needed", "pad_embeddings_to_multiple_of": 48}
SMALL = 100
"""Embeddings of the model, where its tokenizer has 128 tokens; 144 is the next multiple of 48."""


def spec(**keys: Any) -> ModelSpec:
    return ModelSpec.model_validate({"name_or_path": "somewhere", **keys})


def make(root: Path, run: str = "run", vocabulary: int = SMALL, **arguments: Any) -> Path:
    model = make_model(root / f"model-{vocabulary}", vocab_size=vocabulary)
    save_weights(model)
    if not (root / "cache").is_dir():
        make_cache(root / "cache", make_conversations(10))
    keys = {"weights": "pretrained", "num_epochs": 2, "checkpoint": {"every_steps": 2, "keep_last": 9}, **arguments}
    return make_job(root, model, next((root / "cache").iterdir()), run=run, **keys)


def test_rows_are_added_where_they_are_needed_and_never_taken_away() -> None:
    assert rows_wanted(100, 128, spec(resize_embeddings="when_needed")) == 128
    assert rows_wanted(100, 128, spec(**GROWING)) == 144
    assert rows_wanted(128, 128, spec(**GROWING)) == 128
    assert rows_wanted(130, 128, spec()) == 130


def test_too_few_rows_are_an_error_that_names_both_numbers_and_the_way_out() -> None:
    with pytest.raises(InvalidExperiment, match="128 different tokens, the model has embeddings for 100") as caught:
        rows_wanted(100, 128, spec())
    assert "when_needed" in caught.value.problems[0].hint


@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_are_the_mean_of_the_old_ones_in_input_and_output(tmp_path: Path, tied: bool) -> None:
    directory = make_model(tmp_path / "model", vocab_size=SMALL, tie_word_embeddings=tied)
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    old = [model.get_input_embeddings().weight.detach().clone(), model.get_output_embeddings().weight.detach().clone()]
    assert grow_embeddings(model, VOCABULARY_SIZE, spec(**GROWING))
    new = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    for before, after in zip(old, new, strict=True):
        assert after.shape == (144, 64)
        assert torch.equal(after[:SMALL], before)
        assert torch.equal(after[SMALL:], before.mean(dim=0).expand(44, -1))
    assert (new[0] is new[1]) == tied
    assert model.config.vocab_size == 144
    assert not grow_embeddings(model, VOCABULARY_SIZE, spec(**GROWING))


def test_a_grown_model_trains_goes_on_exports_and_loads(tmp_path: Path) -> None:
    whole = make(tmp_path, "whole", model_options=GROWING)
    run_training(open_job(whole))
    assert metrics_of(whole)[-1]["loss"] < metrics_of(whole)[0]["loss"]
    model = AutoModelForCausalLM.from_pretrained(whole.parent / "model")
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == 144
    assert len(AutoTokenizer.from_pretrained(whole.parent / "model")) <= 144
    new_rows = load_file(whole.parent / "model" / "model.safetensors")["lm_head.weight"][SMALL:]
    assert new_rows.abs().max() > 0

    resumed = cut_short(whole, tmp_path / "runs" / "resumed", keep="step-000004")
    run_training(open_job(resumed))
    assert model_bytes(resumed) == model_bytes(whole)
    export_model(whole.parent / "checkpoints" / "step-000006", tmp_path / "exported", merge=False)
    assert (tmp_path / "exported" / "model.safetensors").read_bytes() == model_bytes(whole)["model.safetensors"]


def test_a_model_that_is_large_enough_is_left_as_it_is(tmp_path: Path) -> None:
    plain, allowed = make(tmp_path, "plain", 128), make(tmp_path, "allowed", 128, model_options=GROWING)
    for job in (plain, allowed):
        run_training(open_job(job))
    assert model_bytes(plain) == model_bytes(allowed)


@pytest.mark.parametrize(("variant", "frozen"), [("lora", "input and no output")])
def test_adapters_on_a_grown_model_are_refused_since_the_new_rows_would_never_be_trained(
    tmp_path: Path, variant: str, frozen: str
) -> None:
    job = make(tmp_path, variant=variant, model_options=GROWING)
    with pytest.raises(InvalidExperiment, match=f"trains no {frozen} embeddings") as caught:
        run_training(open_job(job))
    assert caught.value.problems[0].path == "model.resize_embeddings"
    assert "`full`" in caught.value.problems[0].hint
    assert not (job.parent / "model").exists()
    assert "trains no input" in json.loads((job.parent / "training.json").read_text())["error"]


CODE = """
from pathlib import Path
Path(__file__).with_name("it-ran").touch()
Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "{model_type}"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def bring_code(model: Path, marker: Path, model_type: str) -> None:
    """Let the model in `model` bring code of its own, which leaves `marker` where it runs."""
    (model / "own.py").write_text(CODE.format(marker=str(marker), model_type=model_type))
    config = json.loads((model / "config.json").read_text())
    automatic = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (model / "config.json").write_text(json.dumps({**config, "model_type": model_type, "auto_map": automatic}))


@pytest.mark.parametrize("weights", ["random", "pretrained"])
def test_a_models_own_code_is_never_run(tmp_path: Path, weights: str) -> None:
    marker = tmp_path / "it-ran"
    known = make(tmp_path / "known", vocabulary=128, weights=weights, max_steps=1, num_epochs=None)
    bring_code(tmp_path / "known" / "model-128", marker, "llama")
    run_training(open_job(known))
    assert (known.parent / "model" / "model.safetensors").is_file(), "transformers has such models itself"

    unknown = make(tmp_path / "unknown", vocabulary=128, weights=weights)
    bring_code(tmp_path / "unknown" / "model-128", marker, "made-up")
    with pytest.raises(InvalidExperiment, match=r"made-up|custom code|trust_remote_code"):
        run_training(open_job(unknown))
    assert not marker.exists()
    assert not list(tmp_path.rglob("it-ran"))
