"""What was fetched and staged is loaded by transformers itself, by id and commit, with every connection refused."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from servers.model_hub import ModelHub

from tunewright.env_builder.models.fetch import ensure_model
from tunewright.env_builder.models.hub import HubClient
from tunewright.env_builder.models.offline import offline_environment
from tunewright.env_builder.models.pins import LocalModel, ModelPin
from tunewright.env_builder.models.progress import PlainTransfer
from tunewright.env_builder.models.selection import Permissions
from tunewright.env_builder.models.staging import stage_models

# What Pants calls the package, relative to the directory the tests run in; elsewhere this interpreter may do.
TRAINER = Path("tunewright-trainer.pex").absolute()
TINY = Path("examples/models/tiny").absolute()

MAKE = """
import sys, torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
tiny, target = sys.argv[1:]
torch.manual_seed(5)
model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tiny))
model.save_pretrained(target, max_shard_size="200KB")
AutoTokenizer.from_pretrained(tiny).save_pretrained(target)
"""

LOAD = """
import hashlib, json, socket, sys
tried = []
def refuse(self, address):
    tried.append(str(address))
    raise ConnectionRefusedError(f"no network in this test: {address}")
def refuse_name(*arguments, **named):
    tried.append(str(arguments))
    raise socket.gaierror("no names in this test")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = refuse_name

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
found = []
for name, revision in json.loads(sys.argv[1]):
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
    model = AutoModelForCausalLM.from_pretrained(name, revision=revision)
    with torch.no_grad():
        ids = tokenizer("To be verified, offline.", return_tensors="pt").input_ids
        logits = model(ids).logits
    found.append([tuple(logits.shape), ids.tolist(), hashlib.sha256(logits.numpy().tobytes()).hexdigest()])
print(json.dumps({"found": found, "tried": tried}))
"""


def run_with_torch(script: str, *arguments: str, **variables: str) -> str:
    """Run `script` where torch and transformers are. Skips where they are nowhere; in CI, where they must be, fails."""
    command = [sys.executable]
    if TRAINER.exists():
        command.append(str(TRAINER))
    elif importlib.util.find_spec("transformers") is None:
        if os.environ.get("CI"):
            pytest.fail(f"there is no {TRAINER.name}")
        pytest.skip("needs the trainer's PEX, or an interpreter with transformers")
    foreign = ("HF_", "TRANSFORMERS_", "PEX_", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    own = {"PEX_INTERPRETER": "1", "PEX_ROOT": f"{cache}/tunewright/e2e-pex-root", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-c", script, *arguments],
        env={**kept, **own, **variables}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(autouse=True)
def _nothing_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()


@pytest.mark.timeout(600)
def test_a_staged_model_gives_the_logits_of_its_source_without_a_network(tmp_path: Path) -> None:
    source = tmp_path / "source"
    run_with_torch(MAKE, str(TINY), str(source), HF_HOME=str(tmp_path / "hf"), HF_HUB_OFFLINE="1")
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    assert sum(name.endswith(".safetensors") for name in files) > 1
    with ModelHub() as hub:
        commit = hub.add("makers/tiny", {**files, "pytorch_model.bin": b"a pickle", "modeling.py": b"raise SystemExit"})
        pin = ModelPin("makers/tiny", commit)
        client = HubClient(endpoint=hub.address)
        ensure_model(tmp_path / "home", pin, Permissions(), PlainTransfer(), lambda: client)
    staged = stage_models(tmp_path / "home", [pin, LocalModel("ours/tiny", source)], tmp_path / "hub")
    ours = next(model for model in staged.models if model.model_id == "ours/tiny")
    wanted: list[tuple[str, str | None]] = [
        (str(source), None),
        ("makers/tiny", commit),
        ("makers/tiny", None),
        ("ours/tiny", ours.commit),
    ]
    variables = {**offline_environment(str(tmp_path / "hub")), "HF_HOME": str(tmp_path / "hf")}
    report: dict[str, Any] = json.loads(run_with_torch(LOAD, json.dumps(wanted), **variables).splitlines()[-1])
    assert report["tried"] == []
    assert len(report["found"]) == len(wanted)
    assert all(one == report["found"][0] for one in report["found"])
