"""The main job, end to end, from the packaged programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from e2e.packaged import DATASET_CACHER, LAUNCHER, SHORT, TRAINER, Project

# One process looks at everything: to start one costs seconds of imports.
LOOK_AT_MODELS = """
import json, sys, torch, transformers, peft
base, *adapters = sys.argv[1:]
load = transformers.AutoModelForCausalLM.from_pretrained
tokenizer = transformers.AutoTokenizer.from_pretrained(base)
seen = {"prompt": tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False,
                                                add_generation_prompt=True)}
ids = torch.arange(3, 40)[None]
for name, adapter, merged in zip(adapters[::3], adapters[1::3], adapters[2::3]):
    model, other = peft.PeftModel.from_pretrained(load(base), adapter).eval(), load(merged).eval()
    with torch.no_grad():
        merged_logits = other(ids).logits
        to_adapter = (model(ids).logits - merged_logits).abs().max().item()
        with model.disable_adapter():
            seen[name] = to_adapter, (model(ids).logits - merged_logits).abs().max().item()
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(project: Project, quickstart: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What transformers and peft make of the quickstart's model, and of adapters trained on it and merged with it."""
    adapters = []
    for name in ("lora", "qlora"):
        run = project.launch(f"examples/{name}.toml", *SHORT, "--set", "training.learning_rate=0.01")
        merged = tmp_path_factory.mktemp(name) / "merged"
        project.call(TRAINER, "export", run["model_dir"], "--merge", "--to", str(merged))
        adapters += [name, run["model_dir"], str(merged)]
    out = project.python(LOOK_AT_MODELS, quickstart["model_dir"], *adapters)
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def test_the_quickstart_leaves_a_model_that_transformers_loads(
    quickstart: dict[str, Any], seen: dict[str, Any]
) -> None:
    assert quickstart["state"] == "SUCCEEDED"
    assert seen["prompt"].endswith("<|user|>\nhi\n<|assistant|>\n")


@pytest.mark.parametrize("example", ["lora", "qlora"])
def test_adapters_load_in_peft_and_merge_to_the_same_logits(example: str, seen: dict[str, Any]) -> None:
    against_adapter, against_base = seen[example]
    assert against_adapter < 1e-4
    assert against_base > 100 * max(against_adapter, 1e-6), "the adapter changed nothing"


def test_every_file_that_is_promised_is_there(quickstart: dict[str, Any]) -> None:
    run_dir = Path(quickstart["run_dir"])
    promised = (
        "experiment.toml", "resolved.json", "preflight.json", "environment.json", "dataset.json", "job.json", "plan",
        "handle.json", "events.jsonl", "logs", "metrics.jsonl", "checkpoints", "model", "provenance.json",
    )  # fmt: skip
    assert [name for name in promised if not (run_dir / name).exists()] == []
    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir())[-1].startswith("step-")


def test_every_metric_that_is_promised_is_logged(project: Project, quickstart: dict[str, Any]) -> None:
    lines = project.metrics(quickstart["run"])
    promised = {
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens",
        "tokens_per_second",
        "padding_ratio",
        "elapsed_seconds",
    }
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert all(promised <= line.keys() for line in lines)
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_the_record_answers_the_checklist(quickstart: dict[str, Any]) -> None:
    record = json.loads(Path(quickstart["record"]).read_text())
    assert len(record["code"]["commit"]) == 40 and record["code"]["dirty"] is False
    assert record["data"]["digest"] and record["data"]["sources"][0]
    assert record["environment"]["sha256"] and record["environment"]["packages"]["torch"]
    assert record["environment"]["python"].startswith("3.11")
    assert record["randomness"]["seeds"] and record["randomness"]["determinism"]
    assert record["hyperparameters"]["seed"] == 17
    assert record["hardware"]
    assert record["plugins"]["launcher"]["tunewright-cluster-local"]
    assert record["cluster"]["name"] == "local" and record["cluster"]["native_id"]
    assert record["checkpoints"] and all(len(checkpoint["sha256"]) == 64 for checkpoint in record["checkpoints"])
    assert any(file["file"].endswith(".safetensors") for file in record["model_files"])
    assert record["metrics"]["steps"] == 8
    assert record["outcome"]["state"] == "SUCCEEDED"


def test_a_run_killed_in_the_middle_goes_on_to_the_same_bytes(project: Project, quickstart: dict[str, Any]) -> None:
    arguments = ("examples/quickstart.toml", "--name", "killed", *SHORT)
    project.launch(*arguments, "--detach")
    project.wait_for_step("killed", 5)
    trainers = trainer_pids(project.run_dir("killed"))
    assert trainers
    for pid in trainers:
        os.kill(pid, signal.SIGKILL)
    project.launcher("wait", "killed", expect=137)
    assert not (project.run_dir("killed") / "model").exists()
    project.launch(*arguments)
    log = project.launcher("logs", "killed").stdout
    assert "step-000004" in log, log
    assert [line["step"] for line in project.metrics("killed")] == list(range(1, 9))
    assert project.model_bytes("killed") == project.model_bytes(quickstart["run"])


def test_the_job_outlives_a_killed_launcher_and_is_found_again_with_the_same_bytes(
    project: Project, quickstart: dict[str, Any]
) -> None:
    launcher = project.start(LAUNCHER, "launch", "examples/quickstart.toml", *SHORT,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    orphan = "quickstart-2"  # the second launch of an experiment is a run of its own
    project.wait_for_step(orphan, 1)
    launcher.kill()
    launcher.communicate()
    status = json.loads(project.launcher("status", orphan, "--json").stdout)
    assert status["state"] in ("RUNNING", "SUCCEEDED")
    log = project.launcher("logs", orphan, "--follow").stdout
    assert "8" in log
    project.launcher("wait", orphan)
    record = json.loads((project.run_dir(orphan) / "provenance.json").read_text())
    assert record["outcome"]["state"] == "SUCCEEDED"
    assert record["cluster"]["native_id"]
    assert project.model_bytes(orphan) == project.model_bytes(quickstart["run"])


def test_stop_ends_the_trainer_and_exits_75(project: Project, quickstart: dict[str, Any]) -> None:
    project.launch(
        "examples/quickstart.toml", "--name", "stopped", *SHORT, "--set", "training.max_steps=100000", "--detach"
    )
    project.wait_for_step("stopped", 1)
    trainers = trainer_pids(project.run_dir("stopped"))
    project.launcher("stop", "stopped")
    deadline = time.monotonic() + 50
    while any(Path(f"/proc/{pid}").exists() for pid in trainers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert trainers and not any(Path(f"/proc/{pid}").exists() for pid in trainers)
    project.launcher("wait", "stopped", expect=75)


def test_a_corrupted_checkpoint_is_named_set_aside_and_not_trained_from(
    project: Project, quickstart: dict[str, Any]
) -> None:
    arguments = ("examples/quickstart.toml", "--name", "corrupted", *SHORT)
    project.launch(*arguments, "--detach")
    project.wait_for_checkpoint("corrupted", 4)
    for pid in trainer_pids(project.run_dir("corrupted")):
        os.kill(pid, signal.SIGKILL)
    project.launcher("wait", "corrupted", expect=137)
    *_, older, newest = sorted((project.run_dir("corrupted") / "checkpoints").glob("step-*"))
    weights = next(newest.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    project.launcher("launch", *arguments)
    log = project.launcher("logs", "corrupted").stdout
    assert weights.name in log and older.name in log
    assert (newest.parent / f"damaged-{newest.name}" / weights.name).read_bytes() == content
    assert project.model_bytes("corrupted") == project.model_bytes("quickstart")


def test_a_corrupted_cache_shard_is_named_and_not_trained_on(project: Project, quickstart: dict[str, Any]) -> None:
    digest = json.loads((Path(quickstart["run_dir"]) / "dataset.json").read_text())["digest"]
    shard = next((project.home / "datasets" / digest).glob("tokens-*.arrow"))
    good = shard.read_bytes()
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    try:
        shard.write_bytes(bad)
        assert shard.name in project.call(DATASET_CACHER, "verify", digest, expect=65).stderr
        result = project.launcher("launch", "examples/quickstart.toml", "--name", "bad-shard", *SHORT, expect=65)
        assert shard.name in result.stderr + project.launcher("logs", "bad-shard").stdout
        assert not project.metrics("bad-shard")
    finally:
        shard.write_bytes(good)
    project.call(DATASET_CACHER, "verify", digest)


def test_two_processes_train_to_the_same_losses(project: Project, quickstart: dict[str, Any]) -> None:
    run = project.launch("examples/quickstart.toml", "--name", "two-processes", *SHORT,
                         "--set", "cluster.processes_per_node=2", "--set", "training.micro_batch_size=1")  # fmt: skip
    losses = [line["loss"] for line in project.metrics(run["run"])]
    expected = [line["loss"] for line in project.metrics(quickstart["run"])]
    assert losses == pytest.approx(expected, rel=1e-4)


def trainer_pids(run_dir: Path) -> list[int]:
    """The processes that were started with this run's job, the supervisor left out."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(run_dir / "job.json").encode() in arguments and b"train" in arguments:
                pids.append(int(entry.name))
    return pids
