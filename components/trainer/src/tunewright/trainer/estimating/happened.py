"""What a run's metrics say of the memory and the time it took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunewright.contracts.rundir import RunDir


def what_happened(run_dir: Path | None) -> dict[str, Any]:
    """`step`, `elapsed_seconds` and `peak_memory_bytes` of the run so far; empty where it has not trained."""
    if run_dir is None:
        return {}
    found: dict[str, Any] = {}
    try:
        lines = RunDir(run_dir).metrics.read_text().splitlines()
    except FileNotFoundError:
        return {}
    for line in map(json.loads, lines):
        if "loss" in line:
            found |= {key: line[key] for key in ("step", "elapsed_seconds") if key in line}
        if line.get("peak_memory_bytes"):
            found["peak_memory_bytes"] = max(found.get("peak_memory_bytes", 0), line["peak_memory_bytes"])
    return found
