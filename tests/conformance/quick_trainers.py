"""Trainers that are processes of their own but start at once: forked off one that has imported torch already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PRELOADED = ["tunewright.trainer.training", "transformers.models.llama.modeling_llama", "accelerate", "peft"]


StartTrainer = Callable[..., "QuickTrainer"]


@contextmanager
def quick_trainers() -> Iterator[StartTrainer]:
    """What starts `trainer train` with a job and variables. Those that still run at the end are killed."""
    started: list[QuickTrainer] = []

    def start(job: Path, **variables: str) -> QuickTrainer:
        started.append(QuickTrainer(job, **variables))
        return started[-1]

    try:
        yield start
    finally:
        for trainer in started:
            if trainer.is_running:
                trainer.kill()


class QuickTrainer:
    """`trainer train JOB`, started. What it says is in `said`."""

    def __init__(self, job: Path, **variables: str) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"  # with threads of torch's it could not be forked
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        self._log = job.parent / "said.txt"
        self._log.touch()
        self._process = context.Process(target=_train, args=(job, self._log, variables))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def said(self) -> str:
        """Its output and its messages; those of earlier trainers of the job come before."""
        return self._log.read_text()

    @property
    def is_running(self) -> bool:
        """Whether it still runs."""
        return self._process.is_alive()

    def wait_until(self, condition: Callable[[], bool], seconds: float = 200.0) -> None:
        """Return once `condition` holds. It must while the trainer runs."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.is_running, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.002)

    def wait(self, seconds: float = 200.0) -> int:
        """Its exit code, as a shell has it."""
        self._process.join(seconds)
        code = self._process.exitcode
        if code is None:
            self.kill()
            raise AssertionError(f"did not end in {seconds} s: {self.said}")
        return 128 - code if code < 0 else code

    def send(self, number: int) -> None:
        """A signal for its first process alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL for it and everything it has started."""
        os.killpg(self.pid, signal.SIGKILL)
        self._process.join()


def _train(job: Path, log: Path, variables: dict[str, str]) -> None:
    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.update({"HF_HUB_OFFLINE": "1", **variables})
    from tunewright.contracts.command_line import run_command_line
    from tunewright.trainer.cli import trainer

    run_command_line(trainer, "trainer", ["train", str(job)])
