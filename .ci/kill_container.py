"""Kill a run's container once it has reached a step: `kill_container.py RUN_DIRECTORY STEP`. Standard library only."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

LABEL = "ai.tunewright.run"
PATIENCE_SECONDS = 300


def last_step(run: Path) -> int:
    """The last step that was logged, 0 before the first."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return int(json.loads(lines[-1])["step"]) if lines else 0


def main(run: Path, step: int) -> None:
    """Wait for the step, and kill."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while last_step(run) < step:
        assert time.monotonic() < deadline, f"{run.name} does not reach step {step}"
        time.sleep(0.1)
    listing = ["docker", "ps", "--quiet", "--filter", f"label={LABEL}={run.name}"]
    containers = subprocess.run(listing, check=True, capture_output=True, text=True).stdout.split()
    assert len(containers) == 1, f"{run.name} has {len(containers)} containers"
    subprocess.run(["docker", "kill", *containers], check=True, stdout=subprocess.DEVNULL)
    print(f"{run.name}: killed its container at step {last_step(run)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
