"""Between two steps: checkpoints that are due, those that have become whole, and an end that was asked for."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from tunewright.contracts.checkpoints import CheckpointRef, read_checkpoint_manifest
from tunewright.contracts.errors import RunStopped
from tunewright.trainer import log
from tunewright.trainer.checkpoints.copies import CheckpointCopier, best_step
from tunewright.trainer.checkpoints.finding import whole_checkpoints
from tunewright.trainer.checkpoints.keeper import CheckpointKeeper
from tunewright.trainer.checkpoints.retention import remove_old_checkpoints
from tunewright.trainer.interruption import Interruption, signal_name
from tunewright.trainer.session import Session
from tunewright.trainer.strategies.engine import Engine


class Checkpointing:
    """The checkpoints of one training, and its early end. Every process has one; `after_step` is collective."""

    def __init__(self, session: Session, interruption: Interruption) -> None:
        self._session, self._interruption = session, interruption
        self._keeper = CheckpointKeeper(session.job, session.engine, session.trained, self._take_care_of)
        spec, job = session.job.experiment.checkpoint, session.job
        self._copier: CheckpointCopier | None = None
        if spec.copy_to is not None and session.engine.is_main:
            self._copier = CheckpointCopier(spec.copy_to, job.job.run, spec.keep_last)
            for path in whole_checkpoints(job.run_dir.checkpoints)[-1:]:
                self._copier.add(path)  # an attempt that was killed may not have copied it any more

    def __enter__(self) -> Checkpointing:
        self._interruption.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keeper.wait()
        if self._copier is not None:
            self._copier.close()

    def after_step(self, is_due: bool, is_last: bool) -> None:
        """What follows the step just done. Collective.

        Raises RunStopped, once the checkpoint of this step is whole, where any process was asked to end. Raises
        TunewrightError where a checkpoint could not be written.
        """
        if is_due:
            self._begin()
        number, writing = agree(self._session.engine, self._interruption.signal, int(self._keeper.is_writing))
        if is_last or not writing:
            self._keeper.finish()
        if number and not is_last:
            self._stop(number)

    def describe_copies(self) -> dict[str, Any]:
        """What the record says of the checkpoints' copies; empty where there are none, or on another process."""
        return {} if self._copier is None else self._copier.describe()

    def _begin(self) -> None:
        session = self._session
        epoch, steps_in_epoch = divmod(session.progress.step, session.order.steps_per_epoch)
        progress = {name: value for name, value in vars(session.progress).items() if name != "step"}
        position = {"epoch": epoch, "steps_in_epoch": steps_in_epoch, "progress": progress}
        self._keeper.begin(session.progress.step, position)

    def _stop(self, number: int) -> None:
        step = self._session.progress.step
        if self._keeper.newest_step != step:
            self._begin()
        self._keeper.finish()
        hint = "the same launch goes on from it"
        raise RunStopped(f"stopped by {signal_name(number)} after step {step}; its checkpoint is saved", hint)

    def _take_care_of(self, checkpoint: CheckpointRef) -> None:
        """A checkpoint is whole: older ones go, and everybody hears of it. On the main process."""
        session = self._session
        directory, keep_last = session.job.run_dir.checkpoints, session.job.experiment.checkpoint.keep_last
        best = self._best_steps() if session.keeps_best else frozenset()
        if self._copier is not None:
            self._copier.add(Path(checkpoint.path), best)
        in_use = self._copier.steps_in_use if self._copier is not None else frozenset()
        remove_old_checkpoints(directory, keep_last, best | in_use)
        log.say(f"checkpoint: {checkpoint.path}")
        for observer in session.observers:
            observer.checkpoint_saved(checkpoint)
        for complaint in session.job.host.notify(
            "tunewright_checkpoint_saved", checkpoint=checkpoint, job=session.job.job
        ):
            print(complaint, file=sys.stderr)

    def _best_steps(self) -> frozenset[int]:
        """The best checkpoint of each that stays: whichever the run goes on from, its best one must be there."""
        keep_last = self._session.job.experiment.checkpoint.keep_last
        paths = whole_checkpoints(self._session.job.run_dir.checkpoints)[-keep_last:]
        steps = (best_step(read_checkpoint_manifest(path)) for path in paths)
        return frozenset(step for step in steps if step is not None)


def agree(engine: Engine, *values: int) -> list[int]:
    """The largest of every process's values, one by one. Collective; between CPUs, so that no GPU is waited for."""
    if engine.num_processes == 1:
        return list(values)
    largest = torch.tensor(values, dtype=torch.int64)
    torch.distributed.all_reduce(largest, torch.distributed.ReduceOp.MAX)
    found: list[int] = largest.tolist()
    return found
