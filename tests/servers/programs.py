"""Real servers that tests start: each ends with the test, also when the test is killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest

_START_SECONDS = 30
_END_SECONDS = 15
_SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def refuse(reason: str) -> NoReturn:
    """Skip the test; in CI, where everything was promised, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def need_program(name: str, package: str) -> str:
    """Where the program is; without it the test is refused."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}{os.pathsep}{_SYSTEM_PATH}")
    return found or refuse(f"needs `{name}`: apt-get install {package}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    is_ready: Callable[[], bool],
    main_process: Callable[[int], int] = lambda pid: pid,
) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from when it is ready until it has ended. `main_process`: whose end is that of `command` too.

    It is killed: what it leaves is thrown away, and some take long to say goodbye.
    """
    # The kernel ends it when this process ends, however that comes about.
    guarded = [need_program("setpriv", "util-linux"), "--pdeathsig", "KILL", *command]
    with log.open("ab") as output:
        process = subprocess.Popen(guarded, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not is_ready():
            said = log.read_text(errors="replace")[-2000:]
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}: {said}"
            assert time.monotonic() < deadline, f"{command[0]} is not ready: {said}"
            time.sleep(0.02)
        yield process
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(main_process(process.pid), signal.SIGKILL)
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
