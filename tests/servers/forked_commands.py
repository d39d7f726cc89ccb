"""Commands that are processes of their own but start at once: forked off one that has imported what they need."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, NoReturn

MOST_BYTES = 1 << 17
"""Of an order: the variables are most of it."""


class ForkedCommands:
    """Runs Python files and modules as `python FILE` and `python -m MODULE` would, one at a time."""

    def __init__(self, imported: Sequence[str]) -> None:
        self._imported = imported
        self._process: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """End what forks, and what it has started. The next run begins anew."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._ours.close()
            self._process = None

    def _begin(self) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *self._imported],
                env={
                    **os.environ,
                    "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path)),
                    "OPENBLAS_NUM_THREADS": "1",
                },
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def run(
        self,
        program: str,
        arguments: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        timeout_seconds: float,
    ) -> subprocess.CompletedProcess[str]:
        """Run `program`, a file or the name of a module, to its end, with these variables and no others."""
        order = json.dumps([program, list(arguments), str(directory), dict(environment)]).encode()
        if self._process is None:
            self._begin()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            self._ours.settimeout(timeout_seconds)
            try:
                socket.send_fds(self._ours, [order], [out.fileno(), err.fileno()])
                answer = self._ours.recv(64)
            except BaseException:
                self.close()
                raise
            assert answer, "what starts the commands has ended"
            return subprocess.CompletedProcess([program, *arguments], int(answer), _text(out), _text(err))


@cache
def forked_commands(imported: tuple[str, ...]) -> ForkedCommands:
    """One for all tests that name the same modules: what is imported once. It ends with this process."""
    commands = ForkedCommands(imported)
    atexit.register(commands.close)
    return commands


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


@dataclass(frozen=True)
class _Order:
    program: str
    arguments: list[str]


def _next_order(orders: socket.socket) -> _Order:
    """Fork for each order, and tell what became of it. Returns in the process that is to follow one."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(orders, MOST_BYTES, 2)
        if not message:
            os._exit(0)
        pid = os.fork()
        if pid == 0:
            orders.close()
            return _begin(message, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        orders.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())


def _begin(message: bytes, descriptors: Sequence[int]) -> _Order:
    program, arguments, directory, variables = json.loads(message)
    for stream, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(directory)
    return _Order(program, arguments)


def _main() -> None:
    orders = socket.socket(fileno=int(sys.argv[1]))
    del sys.path[0]  # our own folder: what lies in it is `servers.` to others
    for name in sys.argv[2:]:
        importlib.import_module(name)
    threads = sorted(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
    # jemalloc, which pyarrow brings, is made to be forked.
    assert len([name for name in threads if name != "jemalloc_bg_thd"]) == 1, threads
    gc.freeze()  # what is looked through for cycles is copied
    order = _next_order(orders)
    sys.argv = [order.program, *order.arguments]
    _end(_code_of(order.program))


def _code_of(program: str) -> int:
    """Run it; what it ends with."""
    try:
        if program.endswith(".py"):
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """As Python ends, but that the memory is left as it is: taking it down would copy all of it first."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _main()
