"""Trainers that are processes of their own but start at once: forked off one that has imported torch already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from conformance.forking import forking_context

StartTrainer = Callable[..., "QuickTrainer"]
_LOG_VARIABLE = "QUICK_TRAINER_LOG"


@contextmanager
def quick_trainers() -> Iterator[StartTrainer]:
    """What starts a trainer with a job and variables. Those that still run at the end are killed."""
    started: list[QuickTrainer] = []

    def start(job: Path, command: str = "train", **variables: str) -> QuickTrainer:
        started.append(QuickTrainer(job, command, **variables))
        return started[-1]

    try:
        yield start
    finally:
        for trainer in started:
            trainer.kill()


class QuickTrainer:
    """`trainer COMMAND JOB`, started. What it says is in `said`.

    The processes that a node starts are forked off too, where torch's launcher would begin Python anew.
    """

    def __init__(self, job: Path, command: str, **variables: str) -> None:
        self._log = job.parent / f"said-{variables.get('TUNEWRIGHT_NODE_RANK', '0')}.txt"
        self._log.touch()
        environment = {"HF_HUB_OFFLINE": "1", **variables, _LOG_VARIABLE: str(self._log)}
        self._process = forking_context().Process(target=_run, args=([command, str(job)], environment))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def said(self) -> str:
        """Its output and its messages; those of earlier trainers of the job come before."""
        return self._log.read_text()

    @property
    def workers(self) -> list[int]:
        """The processes that the node has started, in the order of their start."""
        path = _workers_of(self._log, self.pid)
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    @property
    def is_running(self) -> bool:
        """Whether it still runs."""
        return bool(self._process.is_alive())

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
        return int(128 - code if code < 0 else code)

    def send(self, number: int) -> None:
        """A signal for its first process alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL for it and everything it has started, where they still run."""
        groups = [self.pid] if self.is_running else []
        for group in (*groups, *filter(is_alive, self.workers)):
            try:
                os.killpg(group, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it has ended meanwhile
        self._process.join()


def is_alive(pid: int) -> bool:
    """Whether process `pid` runs: one that has ended does not, whether or not it is waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _workers_of(log: Path, node: int) -> Path:
    return log.with_suffix(f".workers-{node}")


def _run(arguments: list[str], variables: Mapping[str, str]) -> None:
    """The trainer's command line, in this process."""
    os.setsid()
    os.environ.update(variables)
    descriptor = os.open(os.environ[_LOG_VARIABLE], os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    if "RANK" not in os.environ:  # it is a node, or alone
        ForkedWorker.begin()
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    from tunewright.contracts.command_line import run_command_line
    from tunewright.trainer.cli import trainer

    setattr(subprocess_handler, "Popen", ForkedWorker)  # noqa: B010  (torch does not export it)
    run_command_line(trainer, "trainer", arguments)


class ForkedWorker:
    """A process of a node, forked, in the form that torch's launcher knows: that of `subprocess.Popen`.

    A node has threads by the time it starts processes, so a helper of its own, which has none, forks them for it.
    """

    _helper: ClassVar[Any]
    _lock: ClassVar[threading.Lock]

    @classmethod
    def begin(cls) -> None:
        """Have the helper. It ends with this process."""
        cls._lock = threading.Lock()
        cls._helper, theirs = multiprocessing.Pipe()
        if os.fork() == 0:
            cls._helper.close()
            _fork_on_demand(theirs)
        theirs.close()

    def __init__(self, args: Sequence[str], env: Mapping[str, str], **options: Any) -> None:
        assert list(args[1:3]) == ["-m", "tunewright.trainer"], args
        assert options == {"stdout": None, "stderr": None, "start_new_session": True}, options
        self.pid: int = self._ask(list(args[3:]), dict(env))
        self._code: int | None = None
        with _workers_of(Path(env[_LOG_VARIABLE]), os.getpid()).open("a") as file:
            file.write(f"{self.pid}\n")

    def _ask(self, *question: Any) -> Any:
        with self._lock:
            self._helper.send(question)
            return self._helper.recv()

    def poll(self) -> int | None:
        """What it ended with; None while it runs."""
        if self._code is None:
            self._code = self._ask(self.pid)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it has ended. Raises TimeoutExpired where it has not in time."""
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a worker", timeout or 0.0)
            time.sleep(0.005)
        return code


def _fork_on_demand(pipe: Any) -> NoReturn:
    """Answer until nobody asks: arguments and variables start a worker, the number of one asks what it ended with."""
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            os._exit(0)
        if len(question) == 1:
            pid, status = os.waitpid(question[0], os.WNOHANG)
            pipe.send(os.waitstatus_to_exitcode(status) if pid else None)
        else:
            pipe.send(_fork_worker(*question))


def _fork_worker(arguments: list[str], variables: Mapping[str, str]) -> int:
    pid = os.fork()
    if pid == 0:
        code: Any = 1
        try:
            os.environ.clear()
            _run(arguments, variables)
        except SystemExit as end:
            code = end.code
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code or 0)
    while os.getpgid(pid) != pid:
        time.sleep(0.001)  # torch sends signals to the group
    return pid
