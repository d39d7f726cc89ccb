"""The commands besides `train`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model, save_weights
from tunewright.contracts.command_line import run_command_line
from tunewright.trainer.cli import trainer
from tunewright.trainer.job import open_job
from tunewright.trainer.training import run_training


def run(*arguments: str | Path) -> int:
    """The command's exit code."""
    with pytest.raises(SystemExit) as caught:
        run_command_line(trainer, "trainer", [str(one) for one in arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.fixture(scope="module", params=["full", "lora", "qlora"])
def job(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of each variant."""
    root = tmp_path_factory.mktemp(request.param)
    model = make_model(root / "model")
    save_weights(model)
    made = make_job(
        root, model, make_cache(root / "cache", make_conversations(8)), variant=request.param, weights="pretrained",
        num_epochs=3, learning_rate=2e-2,
    )  # fmt: skip
    run_training(open_job(made))
    return made


@torch.no_grad()
def logits_of(model: Any) -> torch.Tensor:
    logits: torch.Tensor = model.eval()(input_ids=torch.arange(3, 20)[None], use_cache=False).logits
    return logits


def test_the_newest_checkpoint_and_the_run_export_the_model_that_the_run_left(job: Path, tmp_path: Path) -> None:
    checkpoint = job.parent / "checkpoints" / "step-000006"
    assert run("export", checkpoint, "--to", tmp_path / "a") == 0
    assert run("export", job.parent, "--to", tmp_path / "b") == 0
    assert run("export", job.parent / "model", "--to", tmp_path / "c") == 0
    expected = {path.name: path.read_bytes() for path in (job.parent / "model").iterdir()}
    for name in ("a", "b", "c"):
        assert {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} == expected
    assert not list(tmp_path.glob(".*"))


def test_an_earlier_checkpoint_exports_an_earlier_model(job: Path, tmp_path: Path) -> None:
    assert run("export", job.parent / "checkpoints" / "step-000004", "--to", tmp_path / "early") == 0
    (weights,) = (job.parent / "model").glob("*.safetensors")
    assert (tmp_path / "early" / weights.name).read_bytes() != weights.read_bytes()
    assert json.loads((tmp_path / "early" / "tunewright.json").read_text())["steps"] == 4


@pytest.mark.parametrize("source", ["model", "checkpoints/step-000006"])
def test_a_merged_model_computes_what_the_adapter_on_its_base_does(job: Path, tmp_path: Path, source: str) -> None:
    code = run("export", job.parent / source, "--merge", "--to", tmp_path / "merged")
    if open_job(job).variant.name == "full":
        assert code == 64
        assert not (tmp_path / "merged").exists()
        return
    assert code == 0
    base = AutoModelForCausalLM.from_pretrained(job.parent.parent.parent / "model")
    before = logits_of(base)
    adapted = logits_of(PeftModel.from_pretrained(base, job.parent / "model"))
    merged = logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"))
    assert torch.allclose(merged, adapted, atol=1e-4)
    assert not torch.allclose(merged, before, atol=1e-2)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert not list((tmp_path / "merged").glob("adapter_*"))


def test_export_does_not_write_into_a_directory_that_holds_something(job: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("kept")
    assert run("export", job.parent, "--to", tmp_path) == 64
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_there_must_be_something_to_export_or_inspect(tmp_path: Path) -> None:
    assert run("export", tmp_path, "--to", tmp_path / "to") == 66
    assert run("inspect", tmp_path) == 66
    assert run("export", tmp_path) == 64


def test_inspect_tells_step_variant_and_files_of_a_checkpoint(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("inspect", job.parent, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["step"], found["verified"]) == ("checkpoint", 6, True)
    assert found["variant"] == open_job(job).variant.name
    assert {one["file"] for one in found["files"]} == {
        "trained-00000-of-00001.safetensors",
        "optimizer-00000-of-00001.pt",
        "common.pt",
    }
    assert run("inspect", job.parent / "checkpoints" / "step-000006") == 0
    assert "trained-00000-of-00001.safetensors" in capsys.readouterr().out


def test_inspect_verifies_a_model_against_its_runs_record(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(job.parent, copy)
    assert run("inspect", copy / "model", "--json") == 0
    assert json.loads(capsys.readouterr().out)["verified"] is True
    with (
        copy / "model" / "config.json" if (copy / "model" / "config.json").exists() else copy / "model" / "README.md"
    ).open("a") as file:
        file.write(" ")
    assert run("inspect", copy / "model") == 65


def test_a_corrupted_checkpoint_is_neither_inspected_nor_exported(
    job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(job.parent, copy)
    with (copy / "checkpoints" / "step-000006" / "optimizer-00000-of-00001.pt").open("r+b") as file:
        file.write(b"?")
    assert run("inspect", copy) == 65
    assert run("export", copy / "checkpoints" / "step-000006", "--to", tmp_path / "to") == 65
    assert capsys.readouterr().err.count("optimizer-00000-of-00001.pt: sha256 is") == 2
    assert not (tmp_path / "to").exists()


def test_variants_are_listed_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("variants", "--json") == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert {"full", "lora", "qlora"} <= found.keys()
    assert found["lora"]["options"]["rank"]["default"] == 16
    assert "Width" in found["lora"]["options"]["rank"]["description"]
    assert found["qlora"]["strategies"] == ["ddp", "deepspeed_zero2"]
    assert run("variants") == 0
    assert "lora" in capsys.readouterr().out


QUICK_COMMANDS = ("--help", "--version", "train --help", "export --help", "inspect --help", "variants")


@pytest.fixture(scope="module")
def imported_by() -> dict[str, list[str]]:
    """What each of QUICK_COMMANDS imports of what is heavy, one after another in one new process."""
    program = (
        "import contextlib, io, json, sys\nfrom tunewright.trainer.cli import main\nfound = {}\n"
        f"for command in {QUICK_COMMANDS!r}:\n"
        "    sys.argv = ['trainer', *command.split()]\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        try:\n            main()\n"
        "        except SystemExit as end:\n            assert not end.code, end.code\n"
        "    found[command] = [name for name in ('torch', 'transformers', 'numpy') if name in sys.modules]\n"
        "print(json.dumps(found))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE)
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("command", QUICK_COMMANDS)
def test_help_and_lists_do_not_import_torch(imported_by: dict[str, list[str]], command: str) -> None:
    assert imported_by[command] == []


def test_the_module_is_a_program() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tunewright.trainer", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("tunewright-trainer ")


def test_a_misspelt_command_is_64() -> None:
    assert run("trian") == 64
