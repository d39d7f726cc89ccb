"""Following a run to its end: its states, its metrics, and nothing that the run would miss if we died here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunewright.contracts.clusters import Cluster
from tunewright.contracts.errors import RunStopped, Unavailable
from tunewright.contracts.jobs import JobHandle
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobStatus
from tunewright.contracts.timestamps import utc_now
from tunewright.launcher.events import event_of
from tunewright.launcher.progress import Reporter
from tunewright.launcher.run_store import go_on_words, objects_in, read_handle
from tunewright.launcher.states import settled

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 2.0
_PAUSE_GROWTH = 1.5
_LOOK_SECONDS = 0.2  # between two looks at metrics.jsonl, a file: cheaper than asking a cluster
UNREACHABLE_SECONDS = 600.0
_UNCONFIRMED_SECONDS = 60.0


class MetricsTail:
    """The lines of `metrics.jsonl` that are new since the last look. A resumed job may shorten the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._file_id: tuple[int, int] | None = None

    def new_lines(self) -> Iterator[dict[str, Any]]:
        """Whole new lines; a half-written one waits for its rest."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return
        if status.st_size < self._offset or self._file_id not in (None, (status.st_dev, status.st_ino)):
            self._offset = min(self._offset, status.st_size)  # cut back to a checkpoint, or written anew
        self._file_id = (status.st_dev, status.st_ino)
        if status.st_size == self._offset:
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        yield from objects_in(whole)


class StatusQuestions:
    """Asks the cluster soon after a change, then ever more seldom. Survives a cluster that is away for a while."""

    def __init__(self, run: RunDir, handle: JobHandle, cluster: Cluster) -> None:
        self._run, self._handle, self._cluster = run, handle, cluster
        self._pause = 0.0
        self._asked = self._reached = time.monotonic()
        self._last: JobStatus | None = None

    def ask(self) -> JobStatus | None:
        """The job's status, or None where it is not yet time to ask or the cluster cannot be reached just now."""
        now = time.monotonic()
        if now < self._asked + self._current_pause():
            return None
        self._asked = now
        try:
            status = settled(self._run, self._cluster.status([self._handle])[self._handle])
        except Unavailable:
            if now - self._reached > UNREACHABLE_SECONDS:
                raise
            self._pause = LONGEST_PAUSE_SECONDS
            return None
        self._reached = now
        changed = self._last is None or event_of(status) != event_of(self._last)
        self._pause = FIRST_PAUSE_SECONDS if changed else min(self._pause * _PAUSE_GROWTH, LONGEST_PAUSE_SECONDS)
        self._last = status
        return status

    def _current_pause(self) -> float:
        # A record means that the job is about to end: no reason to wait out a long pause.
        return min(self._pause, FIRST_PAUSE_SECONDS) if self._run.provenance.exists() else self._pause


def follow_run(
    run: RunDir, handle: JobHandle, cluster: Cluster, reporter: Reporter, timeout_seconds: float | None = None
) -> JobStatus:
    """Report until the job has ended; give its last status. Raises RunStopped when `timeout_seconds` are over first."""
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    tail, questions, shown = MetricsTail(run.metrics), StatusQuestions(run, handle, cluster), None
    with reporter:
        while True:
            status = questions.ask()
            # Read after the cluster was asked, told before its answer: the last step is seen, before the end.
            for line in tail.new_lines():
                reporter.metrics(line)
            if status is not None and (event := event_of(status)) != shown:
                reporter.state({"time": utc_now(), **event})
                shown = event
            if status is not None and status.state.is_terminal:
                return status
            _refuse_late(run, deadline, timeout_seconds)
            time.sleep(_LOOK_SECONDS)


def wait_for_handle(run: RunDir, timeout_seconds: float | None = None) -> JobHandle:
    """The cluster's handle, where another launcher is just about to get it. Raises RunStopped where none comes."""
    patience = _UNCONFIRMED_SECONDS if timeout_seconds is None else min(timeout_seconds, _UNCONFIRMED_SECONDS)
    started = run.submission.stat().st_mtime if run.submission.exists() else 0.0
    while (handle := read_handle(run)) is None:
        if time.time() > started + patience:
            hint = f"{go_on_words(run)} goes on with it"
            raise RunStopped(f"run `{run.name}`: the cluster has not confirmed its job", hint)
        time.sleep(_LOOK_SECONDS)
    return handle


def _refuse_late(run: RunDir, deadline: float | None, timeout_seconds: float | None) -> None:
    if deadline is not None and time.monotonic() > deadline:
        raise RunStopped(f"{run.name}: has not ended within {timeout_seconds:g} seconds; it goes on")
