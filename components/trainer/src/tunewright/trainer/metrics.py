"""`metrics.jsonl`: a line per logged step, and nothing of steps that a resumed run does again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunewright.contracts.files import append_line, write_text_atomically


class MetricsLog:
    """Writes the lines; rank 0 has one."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        """Lines after `resumed_step` are of steps that a checkpoint does not hold: they go, and are written again."""
        self._path = path
        lines = [line for line in read_metrics(path) if line["step"] <= resumed_step]
        write_text_atomically(path, "".join(f"{json.dumps(line)}\n" for line in lines))
        self.first_loss: float | None = lines[0]["loss"] if lines else None

    def write(self, line: dict[str, Any]) -> None:
        """Append one line, visible at once."""
        if self.first_loss is None:
            self.first_loss = line["loss"]
        append_line(self._path, json.dumps(line))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines that are there."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break  # torn by a crash: it and what follows was never whole
    return lines
