"""Who encodes the parts: this process, or several of its own kind on this machine."""

from __future__ import annotations

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from tunewright.contracts.errors import Problem, Unavailable
from tunewright.dataset_cacher.preparation.part_encoding import OnRows, PartEncoder
from tunewright.dataset_cacher.preparation.parts import EncodedPart, PartStore, PartTask

if TYPE_CHECKING:
    from concurrent.futures import Future

PARTS_PER_PROCESS = 4
"""Fewer are encoded sooner than another process is started."""

PARTS_OF_SEVERAL = 2 * PARTS_PER_PROCESS
"""From so many parts on more than one process encodes, where there is more than one core."""

_QUEUED_PER_PROCESS = 3
_PR_SET_PDEATHSIG = 1
"""From Linux's <sys/prctl.h>: the signal a process gets when its parent ends."""


@dataclass(frozen=True)
class PartReport:
    """What is told of a part that was encoded."""

    task: PartTask
    num_tokens: int
    num_problems: int
    first_problems: tuple[Problem, ...]


class Executor(Protocol):
    """Encodes parts into a part store."""

    def run(self, tasks: Iterable[PartTask], num_tasks: int, on_rows: OnRows) -> Iterator[PartReport]:
        """A report for each task, in their order; `on_rows` is told of rows as they are encoded."""


@dataclass(frozen=True)
class PartWorker:
    """Encodes one part and keeps it."""

    encoder: PartEncoder
    store: PartStore
    engine: str

    def run(self, task: PartTask, on_rows: OnRows = lambda rows, tokens: None) -> PartReport:
        """Encode, keep, report. A part with rows that cannot be used is not kept."""
        return self.keep(task, self.encoder.encode(task, on_rows))

    def keep(self, task: PartTask, encoded: EncodedPart) -> PartReport:
        """Keep what any process encoded, report."""
        if not encoded.num_problems:
            self.store.save(task, encoded, self.engine)
        problems = encoded.first_problems
        return PartReport(task, encoded.num_tokens, encoded.num_problems, problems)


@dataclass(frozen=True)
class LocalExecutor:
    """This machine: one process, or several where there is enough to do."""

    worker: PartWorker
    num_processes: int
    """The most that are wanted."""

    def run(self, tasks: Iterable[PartTask], num_tasks: int, on_rows: OnRows) -> Iterator[PartReport]:
        """A report for each task, in their order."""
        num_processes = min(self.num_processes, num_tasks // PARTS_PER_PROCESS)
        if num_processes < 2:
            for task in tasks:
                yield self.worker.run(task, on_rows)
            return
        # Each process has a core to itself: threads of the tokenizers would only get in each other's way.
        with _environment(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false"):
            yield from _run_in_processes(self.worker, tasks, num_processes, on_rows)


MakeExecutor = Callable[[PartWorker], Executor]

Note = Callable[[str], None]
"""Told a message that stays."""


def make_executor(name: Literal["local", "ray"], num_processes: int | None, note: Note) -> MakeExecutor:
    """What encodes the parts, by its name. Raises Unavailable where Ray is not installed or not running."""
    if name == "ray":
        from tunewright.dataset_cacher.preparation.ray_executor import check_ray, make_ray_executor

        check_ray()
        return lambda worker: make_ray_executor(worker, note)
    return lambda worker: LocalExecutor(worker, num_processes or len(os.sched_getaffinity(0)))


def _run_in_processes(
    worker: PartWorker, tasks: Iterable[PartTask], num_processes: int, on_rows: OnRows
) -> Iterator[PartReport]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # Forked: the tokenizer is loaded once, and a process costs milliseconds. No thread has been started yet.
    waiting = iter(tasks)
    futures: deque[Future[PartReport]] = deque()
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(num_processes, context, initializer=_begin, initargs=(worker, os.getpid()))
    try:
        for task in islice(waiting, _QUEUED_PER_PROCESS * num_processes):
            futures.append(pool.submit(_run_task, task))
        while futures:
            report = futures.popleft().result()
            on_rows(report.task.num_wanted, report.num_tokens)
            futures.extend(pool.submit(_run_task, task) for task in islice(waiting, 1))
            yield report
    except BrokenProcessPool:
        raise Unavailable("dataset: a process that encodes was killed", "out of memory? What is done is kept") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Forked:
    """What a process finds in itself: handed over by the fork, not pickled."""

    worker: ClassVar[PartWorker]


def _run_task(task: PartTask) -> PartReport:
    return _Forked.worker.run(task)


def _begin(worker: PartWorker, parent: int) -> None:
    """Leave nothing behind when the parent is killed, and let it alone decide about Ctrl-C."""
    _Forked.worker = worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


class _environment:  # reads as a statement
    """Variables of this process while a block runs."""

    def __init__(self, **variables: str) -> None:
        self._variables = variables
        self._before = {name: os.environ.get(name) for name in variables}

    def __enter__(self) -> None:
        os.environ.update(self._variables)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
