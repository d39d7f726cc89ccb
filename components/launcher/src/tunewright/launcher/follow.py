"""Following a run to its end: its states, its metrics, and nothing that the run would miss if we died here."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunewright.contracts.clusters import Cluster
from tunewright.contracts.errors import RunStopped
from tunewright.contracts.jobs import JobHandle
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobStatus
from tunewright.launcher.events import record_event
from tunewright.launcher.progress import Reporter

_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0


class MetricsTail:
    """The lines of `metrics.jsonl` that are new since the last look. A resumed job may shorten the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new_lines(self) -> Iterator[dict[str, Any]]:
        """Whole new lines; a half-written one waits for its rest."""
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return
        if size < self._offset:
            self._offset = size
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def follow_run(
    run: RunDir, handle: JobHandle, cluster: Cluster, reporter: Reporter, timeout_seconds: float | None = None
) -> JobStatus:
    """Report until the job has ended; give its last status. Raises RunStopped when `timeout_seconds` are over first."""
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    tail, pause, shown = MetricsTail(run.metrics), _FIRST_PAUSE_SECONDS, None
    with reporter:
        while True:
            status = cluster.status([handle])[handle]
            event = record_event(run, status)
            moved = False
            if status != shown:
                reporter.state(event or {"time": None, **status.to_document()})
                shown, moved = status, True
            for line in tail.new_lines():
                reporter.metrics(line)
                moved = True
            if status.state.is_terminal:
                return status
            if deadline is not None and time.monotonic() > deadline:
                raise RunStopped(f"{run.name}: still {status.state.value.lower()} after {timeout_seconds} seconds")
            pause = _FIRST_PAUSE_SECONDS if moved else min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
            time.sleep(pause)
