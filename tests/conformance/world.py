"""Processes that train together, started once for many cases: starting one, with torch, takes longer than a case.

A `World` is what torchrun would make of a job on one node, as far as the trainer can tell: the same variables, and an
address of its own for each case.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from conformance.forking import forking_context

_START_SECONDS = 240.0
_CASE_SECONDS = 100.0
_SECONDS_AFTER_A_FAILURE = 10.0


class CaseFailed(AssertionError):
    """A process of the world raised; the message has every process's traceback."""


class World:
    """`size` processes that do the same case at the same time, with ranks 0, 1, ..."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._processes: list[Any] = []
        self._pipes: list[Connection[Any, Any]] = []

    def train(self, job: Path) -> Path:
        """Run the training of `job` in all processes to its end. Gives `job` again."""
        self.call(train_here, job)
        return job

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What `function` (of a module that the processes can import) gives in each process, by rank."""
        if not self._processes:
            self._start()
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(self.size)}
        for rank, pipe in enumerate(self._pipes):
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(self.size)}
            pipe.send((address | ranks, function, arguments))
        outcomes = self._collect()
        if any(failed for failed, _ in outcomes):
            raise CaseFailed("\n".join(f"process {rank}: {said}" for rank, (_, said) in enumerate(outcomes)))
        return [result for _, result in outcomes]

    def _start(self) -> None:
        context = forking_context()
        for _ in range(self.size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(ours)
        for pipe in self._pipes:
            if not pipe.poll(_START_SECONDS):
                self.close()
                raise CaseFailed(f"the processes did not start within {_START_SECONDS:g} s")
            pipe.recv()

    def _collect(self) -> list[tuple[bool, Any]]:
        """Each process's outcome. Those that are not heard of in time are killed: the next case has new ones."""
        outcomes: dict[int, tuple[bool, Any]] = {}
        while len(outcomes) < self.size:
            waiting = [pipe for rank, pipe in enumerate(self._pipes) if rank not in outcomes]
            has_failure = any(failed for failed, _ in outcomes.values())
            ready = wait(waiting, timeout=_SECONDS_AFTER_A_FAILURE if has_failure else _CASE_SECONDS)
            for pipe in ready:
                assert isinstance(pipe, Connection)
                try:
                    outcomes[self._pipes.index(pipe)] = pipe.recv()
                except (EOFError, ConnectionResetError):
                    outcomes[self._pipes.index(pipe)] = (True, "ended")
            if not ready:
                self.close()
                missing = sorted(set(range(self.size)) - set(outcomes))
                said = "\n".join(f"process {rank}: {outcome}" for rank, (_, outcome) in outcomes.items())
                raise CaseFailed(f"processes {missing} were not heard of in time; of others:\n{said}")
        return [outcomes[rank] for rank in range(self.size)]

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._pipes = [], []


@contextmanager
def open_world(size: int = 2) -> Iterator[World]:
    """A world, and its end. Its processes are started by its first case."""
    world = World(size)
    try:
        yield world
    finally:
        world.close()


def train_here(job: Path) -> None:
    """Run the training of `job` in this process, one of those that its environment names."""
    from tunewright.trainer.job import open_job
    from tunewright.trainer.training import run_training

    run_training(open_job(job))


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _serve(pipe: Connection[Any, Any]) -> None:
    """Do cases until nobody asks for one. Each begins with the variables of the first, and its own."""
    before = dict(os.environ)
    pipe.send("ready")
    while True:
        try:
            variables, function, arguments = pipe.recv()
        except EOFError:
            return
        os.environ.clear()
        os.environ.update(before | variables)
        try:
            pipe.send((False, function(*arguments)))
        except BaseException:
            pipe.send((True, traceback.format_exc()))
