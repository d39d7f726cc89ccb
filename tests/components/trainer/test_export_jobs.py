"""Export jobs: adapters become a model of its own, weights change their precision and their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model
from tunewright.contracts.errors import InvalidExperiment
from tunewright.trainer.commands.export import export as export_command
from tunewright.trainer.node import run_node

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `full` and `lora`, and their cache."""
    root = tmp_path_factory.mktemp("trained")
    make_cache(root / "cache", make_conversations(8))
    make_model(root / "model")
    options: dict[str, dict[str, Any]] = {"lora": {"options": {"rank": 4, "target_modules": "all-linear"}}}
    for variant in ("full", "lora"):
        job = make_job(root, root / "model", next((root / "cache").iterdir()), run=variant, variant=variant,
                       max_steps=3, learning_rate=0.05, **options.get(variant, {}))  # fmt: skip
        assert run_node(job) == 0
    return root


def export(root: Path, source: str, run: str, **settings: Any) -> Path:
    """An export job of the model of run `source`."""
    model, cache = root / "runs" / source / "model", next((root / "cache").iterdir())
    return make_job(root, model, cache, run=run, weights="pretrained", tables={"job": "export", "export": settings})


@torch.no_grad()
def logits_of(directory: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    logits: torch.Tensor = AutoModelForCausalLM.from_pretrained(directory).eval()(torch.tensor([[5, 6, 7, 8]])).logits
    return logits


def test_adapters_become_a_model_that_computes_the_same_and_is_loaded_without_peft(trained: Path) -> None:
    job = export(trained, "lora", "merged")
    export_command.main([str(job)], standalone_mode=False)
    model, adapters = job.parent / "model", trained / "runs" / "lora" / "model"
    assert not (model / "adapter_config.json").exists()
    assert (model / "tokenizer.json").is_file() and "library_name: transformers" in (model / "README.md").read_text()
    # transformers puts the adapters in `adapters` onto their base by itself.
    torch.testing.assert_close(logits_of(model), logits_of(adapters), rtol=1e-4, atol=1e-4)
    record = json.loads((job.parent / "provenance.json").read_text())
    assert record["outcome"]["state"] == "SUCCEEDED" and record["model"]["name_or_path"] == str(adapters)
    assert "model.safetensors" in [one["file"] for one in record["model_files"]]


def test_a_whole_model_is_taken_as_it_is(trained: Path) -> None:
    job, source = export(trained, "full", "copied"), trained / "runs" / "full" / "model"
    assert run_node(job) == 0
    copied = {path.name: path.read_bytes() for path in (job.parent / "model").iterdir()}
    assert copied == {path.name: path.read_bytes() for path in source.iterdir()}


def test_weights_are_written_in_another_precision_and_in_several_files(trained: Path) -> None:
    from transformers import AutoModelForCausalLM

    job = export(trained, "lora", "halved", dtype="bfloat16", max_shard_size="50KB")
    whole = export(trained, "lora", "whole")
    assert run_node(job) == 0 and run_node(whole) == 0
    model = job.parent / "model"
    files = sorted(model.glob("*.safetensors"))
    assert len(files) > 2 and (model / "model.safetensors.index.json").is_file()
    loaded = AutoModelForCausalLM.from_pretrained(model)
    assert loaded.dtype == torch.bfloat16 and json.loads((model / "config.json").read_text())["dtype"] == "bfloat16"
    expected = AutoModelForCausalLM.from_pretrained(whole.parent / "model").state_dict()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name].to(torch.bfloat16)), name


def test_adapters_that_stay_adapters_stay_as_they_are(trained: Path) -> None:
    job = export(trained, "lora", "kept", merge=False)
    assert run_node(job) == 0
    assert (job.parent / "model" / "adapter_config.json").is_file()
    with pytest.raises(InvalidExperiment, match=r"export\.dtype: adapters stay as they are"):
        run_node(export(trained, "lora", "kept-halved", merge=False, dtype="bfloat16"))
    failed = trained / "runs" / "kept-halved"
    assert not (failed / "model").exists() and not (failed / "provenance.json").exists()
