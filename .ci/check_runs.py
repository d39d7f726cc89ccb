"""Check what the main job left: outcome, loss, equal bytes, one environment, the record. Standard library only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text())


def losses(run: Path) -> list[float]:
    """The logged losses of a run. Lines of evaluations have another one."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def mean(values: list[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def model_bytes(run: Path) -> dict[str, bytes]:
    """The weights of a run's model."""
    return {path.name: path.read_bytes() for path in sorted((run / "model").glob("*.safetensors"))}


def check(home: Path) -> None:
    """Raise AssertionError with the first thing that is wrong."""
    runs = home / "runs"
    first, killed = runs / "quickstart", runs / "quickstart-killed"
    for run in sorted(runs.iterdir()):
        record = read(run / "provenance.json")
        assert record["outcome"]["state"] == "SUCCEEDED", f"{run.name}: {record['outcome']}"
        empty = [key for key in ("code", "data", "environment", "randomness", "hyperparameters", "hardware", "plugins",
                                 "cluster", "checkpoints", "model_files", "metrics") if not record[key]]  # fmt: skip
        assert not empty, f"{run.name}: the record does not answer {empty}"
        print(f"{run.name}: loss {losses(run)[0]:.3f} -> {losses(run)[-1]:.3f} in {record['metrics']['steps']} steps")
    start, end = mean(losses(first)[:3]), mean(losses(first)[-5:])
    assert end < start * 2 / 3, f"the quickstart's loss fell from {start:.3f} to {end:.3f}: by less than a third"
    assert model_bytes(first), "the quickstart left no weights"
    assert read(killed / "provenance.json")["outcome"]["attempt"] == 1, "the killed container was not started again"
    assert read(killed / "training.json")["resumed_from_step"], "the container that was started again began anew"
    assert model_bytes(killed) == model_bytes(runs / "quickstart-reproduced"), "the reproduction has other weights"
    assert model_bytes(killed) == model_bytes(runs / "stranger"), "Docker gave other weights than this machine itself"
    environments = [entry for entry in (home / "environments").iterdir() if (entry / "environment.json").exists()]
    kinds = sorted(read(entry / "environment.json")["kind"] for entry in environments)
    assert kinds == ["image", "image", "pex"], f"one commit, a PEX and two images, but {kinds}"


if __name__ == "__main__":
    check(Path(sys.argv[1]))
    print("the runs are as promised")
