"""`metrics.jsonl`: one line per logged step, on disk as soon as it is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunewright.contracts.files import append_line, write_text_atomically


def append_metrics(path: Path, line: dict[str, Any]) -> None:
    """Add one line."""
    append_line(path, json.dumps(line, allow_nan=False))


def forget_later_lines(path: Path, step: int) -> None:
    """Remove every line of a step after `step`, and a torn last line: the run will write them again."""
    if not path.is_file():
        return
    kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
    write_text_atomically(path, "".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
