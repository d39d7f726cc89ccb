"""Saving checkpoints while training goes on: one at a time, and it is whole once all processes have written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.contracts.checkpoints import CheckpointRef
from tunewright.contracts.datasets import FileRecord
from tunewright.contracts.errors import TunewrightError
from tunewright.trainer.checkpoints.finding import checkpoint_name
from tunewright.trainer.checkpoints.host_copies import HostCopies
from tunewright.trainer.checkpoints.saving import Snapshot, Trained, put_in_place, take_snapshot, write_snapshot
from tunewright.trainer.job import TrainingJob
from tunewright.trainer.strategies.engine import Engine

Position = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """What became of one process's share of a checkpoint."""

    files: tuple[FileRecord, ...] = ()
    problem: str = ""
    """Why it could not be written; empty where it was."""


class PendingSave:
    """One process's share of a checkpoint, being written: in a thread, or at once."""

    def __init__(self, directory: Path, snapshot: Snapshot, in_background: bool) -> None:
        self.directory, self.snapshot = directory, snapshot
        self._written = Written()
        self._thread: threading.Thread | None = None
        if in_background:
            self._thread = threading.Thread(target=self._write, name=f"saving {directory.name}")
            self._thread.start()
        else:
            self._write()

    @property
    def is_running(self) -> bool:
        """Whether it is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> Written:
        """What became of it, once it has."""
        if self._thread is not None:
            self._thread.join()
        return self._written

    def _write(self) -> None:
        try:
            self._written = Written(write_snapshot(self.directory, self.snapshot))
        except Exception as error:  # of many kinds: disk, memory, safetensors' own
            self._written = Written(problem=f"{type(error).__name__}: {error}")


class CheckpointKeeper:
    """Saves the checkpoints of one training. Every process has one, and calls `begin` and `finish` in the same order.

    `is_whole` is called on the main process with each checkpoint that is whole.
    """

    def __init__(
        self, job: TrainingJob, engine: Engine, trained: Trained, is_whole: Callable[[CheckpointRef], None]
    ) -> None:
        self._job, self._engine, self._trained, self._is_whole = job, engine, trained, is_whole
        wanted = job.experiment.checkpoint.background
        self.in_background = wanted == "always" or (wanted == "auto" and engine.device.type == "cuda")
        self._copies = HostCopies() if self.in_background else None
        self._pending: PendingSave | None = None
        self.newest_step: int | None = None
        """The step of the newest checkpoint that was begun."""

    @property
    def is_writing(self) -> bool:
        """Whether this process still writes."""
        return self._pending is not None and self._pending.is_running

    def begin(self, step: int, position: Position) -> None:
        """Save the checkpoint of `step`, the step just done. Collective. The one before is whole first."""
        self.finish()
        snapshot = take_snapshot(self._job, self._engine, self._trained, step, position, self._copies)
        directory = self._job.run_dir.checkpoints / checkpoint_name(step)
        self._pending, self.newest_step = PendingSave(directory, snapshot, self.in_background), step
        if not self.in_background:
            self.finish()

    def finish(self) -> None:
        """Have the checkpoint that was begun whole, where there is one. Collective.

        Raises TunewrightError, the same in every process, where one of them could not write its share.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        everything: list[Written] = self._engine.gather_objects(pending.wait())
        _refuse_problems(pending.directory, [written.problem for written in everything])
        done: list[CheckpointRef | str] = self._engine.gather_objects(self._put_in_place(pending, everything))
        if isinstance(done[0], str):
            _refuse_problems(pending.directory, [done[0]])
        elif self._engine.is_main:
            self._is_whole(done[0])

    def _put_in_place(self, pending: PendingSave, everything: Collection[Written]) -> CheckpointRef | str:
        """The whole checkpoint, or why it could not be made whole. On other processes than the main one, nothing."""
        record = pending.snapshot.record
        if record is None:
            return ""
        try:
            return put_in_place(pending.directory, record, [one for written in everything for one in written.files])
        except Exception as error:  # the other processes wait for word of it
            return f"{type(error).__name__}: {error}"

    def wait(self) -> None:
        """Let a thread that writes come to its end; what it wrote is left as it is. Not collective."""
        if self._pending is not None:
            self._pending.wait()


def _refuse_problems(directory: Path, problems: Collection[str]) -> None:
    lines = [f"{directory}: process {rank}: {problem}" for rank, problem in enumerate(problems) if problem]
    if lines:
        raise TunewrightError("\n".join(lines), "the checkpoint could not be written; the one before it is still good")
