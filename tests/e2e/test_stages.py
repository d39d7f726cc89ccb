"""An experiment with stages, end to end: a model trained, and adapters on top of it, by one command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from e2e.packaged import DATASET_CACHER, SHORT, Project

STAGES = """
[[stages]]
name = "base"

[[stages]]
name = "adapters"
[stages.training]
variant = "lora"
learning_rate = 0.01
max_steps = 4
[stages.training.options]
rank = 4
[[stages.dataset.mix]]
source = "examples/data/stdlib.jsonl"
rows = 100
train_on = "last_assistant"
"""

LOADS_ON_ITS_BASE = """
import sys, peft, transformers
base, adapter = sys.argv[1:]
model = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), adapter)
print(peft.PeftConfig.from_pretrained(adapter).r, sum("lora_B" in name for name, _ in model.named_parameters()))
"""


@pytest.fixture
def pipeline(project: Project, tmp_path: Path) -> Path:
    """The quickstart, and adapters on top of it."""
    path = tmp_path / "pipeline.toml"
    path.write_text((project.root / "examples" / "quickstart.toml").read_text() + STAGES)
    return path


def test_stages_train_one_after_another_and_are_planned_as_they_are_run(pipeline: Path, project: Project) -> None:
    arguments = (str(pipeline), *SHORT, "--name", "staged")
    planned = json.loads(project.launcher("plan", *arguments, "--json").stdout)["stages"]
    key = project.call(DATASET_CACHER, "key", str(pipeline), "--stage", "adapters", *SHORT).stdout.strip()
    document = project.launch(*arguments)
    base, adapters = document["stages"]
    assert [(one["run"], one["state"]) for one in (base, adapters)] == [
        ("staged-base", "SUCCEEDED"), ("staged-adapters", "SUCCEEDED"),
    ]  # fmt: skip
    job = json.loads((project.run_dir("staged-adapters") / "job.json").read_text())
    assert job["dataset"]["digest"] == planned[1]["job"]["dataset"]["digest"] == key
    assert (job["model"]["name_or_path"], job["model"]["run"]) == (base["model_dir"], "staged-base")
    assert [line["step"] for line in project.metrics("staged-adapters") if "loss" in line][-1] == 4
    rank, trained = project.python(LOADS_ON_ITS_BASE, base["model_dir"], adapters["model_dir"]).split()[-2:]
    assert rank == "4" and int(trained) > 0
    again = project.launcher("launch", *arguments)
    assert again.stderr.count("is not run again") == 2
