"""A preparation of pairs that is killed half-way: the next one takes its parts, and no pair comes apart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.dataset_cacher.workbench import Workbench, bytes_below
from tunewright.contracts.datasets import verify_cache
from tunewright.dataset_cacher.provide import provide_dataset
from tunewright.dataset_cacher.reading import lines

PART_BYTES = 4096
PARTS_BEFORE_THE_KILL = 3

_PROGRAM = f"""
import os, signal, sys
from tunewright.contracts.datasets import DatasetRequest
from tunewright.dataset_cacher.preparation.parts import PartStore
from tunewright.dataset_cacher.provide import LOCAL, Means, provide_dataset
from tunewright.dataset_cacher.reading import lines

lines.PART_BYTES = {PART_BYTES}
save, saved = PartStore.save, []

def save_and_die(self, task, encoded, engine):
    if len(saved) == {PARTS_BEFORE_THE_KILL}:
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, task, encoded, engine)
    saved.append(task)

PartStore.save = save_and_die
provide_dataset(DatasetRequest.model_validate_json(sys.argv[1]), sys.argv[2], means=Means("local", 1))
"""


@pytest.mark.timeout(120)
def test_what_a_killed_preparation_has_done_is_taken_on_in_pairs(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    same = {"prompt": "a", "chosen": "b", "rejected": "b"}
    pairs = [{"prompt": f"{n}? " * 9, "chosen": f"yes {n} " * (n % 5 + 1), "rejected": f"no {n}"} for n in range(200)]
    bench.write("pairs.jsonl", [same if number % 7 == 3 else pair for number, pair in enumerate(pairs)])
    request = bench.request({"source": "pairs.jsonl", "format": "preference"}, shuffle=True)
    root = tmp_path / "killed"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _PROGRAM, request.model_dump_json(), str(root)]
    killed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(root.glob(".*.work/part-*.rows"))) == PARTS_BEFORE_THE_KILL
    monkeypatch.setattr(lines, "PART_BYTES", PART_BYTES)
    capsys.readouterr()
    resumed = provide_dataset(request, root)
    assert "rows were encoded before" in capsys.readouterr().err
    undisturbed = provide_dataset(request, tmp_path / "undisturbed")
    assert bytes_below(Path(resumed.dataset.path)) == bytes_below(Path(undisturbed.dataset.path))
    verify_cache(Path(resumed.dataset.path))
    origins, trained = bench.origins(resumed), bench.trained(resumed)
    assert origins[::2] == origins[1::2] and len(origins) == resumed.dataset.rows
    for (_, row), chosen, rejected in zip(origins[::2], trained[::2], trained[1::2], strict=True):
        assert chosen == pairs[row]["chosen"] + "</s>" and rejected == pairs[row]["rejected"] + "</s>"
    assert json.dumps(resumed.dataset.dropped) == json.dumps({"equal_answers": len(range(3, 200, 7))})
