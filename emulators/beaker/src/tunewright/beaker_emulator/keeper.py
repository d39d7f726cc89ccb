"""The program beside each task that runs as plain processes: starts it, writes its log, ends its whole tree.

It runs by its path with the standard library only, and goes on when the server dies. What to start comes as JSON on
its standard input, so that values of secrets are on no disk and in no list of processes. SIGTERM: stop as Docker does,
SIGTERM to the task, SIGKILL to all of it after the grace. SIGUSR2: kill at once, as when the machine loses its power.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from log_file import LogWriter  # type: ignore[import-not-found]  # pants: no-infer-dep

_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
_POLL_SECONDS = 0.05
_DRAIN_SECONDS = 2.0
_PIPE_BYTES = 1 << 20
_CANNOT_START = "cannot start: "

_libc = ctypes.CDLL(None, use_errno=True)


class Keeper:
    """One task and its tree."""

    def __init__(self, launch: dict[str, Any]) -> None:
        self._launch = launch
        self._log = LogWriter(Path(launch["log"]))
        self._stop_asked = self._kill_asked = self._out_of_memory = False
        self._kill_at = float("inf")
        self._ended: int | None = None
        self._main = 0

    def run(self) -> None:
        """From the start of the task to its end and the file that tells of it."""
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGTERM, self._ask_stop)
        signal.signal(signal.SIGUSR2, self._ask_kill)
        output, problem = self._start()
        if problem:
            self._tell(state="ended", problem=problem)
            return
        self._tell(state="running", started_ns=time.time_ns())
        self._watch(output)
        self._end_tree(output)
        self._log.close()
        self._tell(state="ended", wait_status=self._ended, out_of_memory=self._out_of_memory, ended_ns=time.time_ns())

    def _start(self) -> tuple[int, str]:
        output, output_end = os.pipe()
        problem, problem_end = os.pipe()
        self._main = os.fork()
        if self._main == 0:
            os.close(output)
            os.close(problem)
            _become(self._launch, output_end, problem_end)
        os.close(output_end)
        os.close(problem_end)
        said = b""
        while piece := os.read(problem, 4096):
            said += piece
        os.close(problem)
        os.set_blocking(output, False)
        return output, said.decode(errors="replace")

    def _watch(self, output: int) -> None:
        open_outputs = [output]
        while self._ended is None:
            ready, _, _ = select.select(open_outputs, [], [], _POLL_SECONDS)
            if ready and not self._read(output):
                open_outputs = []
            self._reap()
            self._act()

    def _act(self) -> None:
        limit = self._launch["memory_bytes"]
        if limit is not None and _memory_bytes(_tree(os.getpid())) > limit:
            self._out_of_memory = True
            self._kill_tree()
        if self._kill_asked or time.monotonic() >= self._kill_at:
            self._kill_tree()
        if self._stop_asked:
            self._stop_asked = False
            self._kill_at = time.monotonic() + self._launch["grace_seconds"]
            _send(self._main, signal.SIGTERM)

    def _end_tree(self, output: int) -> None:
        """Nothing of a container is left when its first process ends, nor of this."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < deadline:
            self._kill_tree()
            self._reap()
            more = self._read(output)
            if not more and not _tree(os.getpid()):
                return
            select.select([output] if more else [], [], [], 0.005)

    def _read(self, output: int) -> bool:
        """Whether more may come."""
        try:
            data = os.read(output, _PIPE_BYTES)
        except BlockingIOError:
            return True
        self._log.write(data)
        return bool(data)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._main:
                self._ended = status

    def _kill_tree(self) -> None:
        for pid in _tree(os.getpid()):
            _send(pid, signal.SIGKILL)

    def _ask_stop(self, *_: object) -> None:
        self._stop_asked = True

    def _ask_kill(self, *_: object) -> None:
        self._kill_asked = True

    def _tell(self, **document: object) -> None:
        path = self._launch["status"]
        with open(f"{path}.new", "w") as file:
            json.dump(document, file)
        os.replace(f"{path}.new", path)


def _become(launch: dict[str, Any], output: int, problem: int) -> NoReturn:
    """In the child: mounts, input, output, and the command. What fails before is written to `problem`."""
    try:
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        os.set_inheritable(problem, False)
        _mount_all(launch["mounts"], launch["private_mounts"])
        os.chdir(launch["directory"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.closerange(3, problem)
        os.closerange(problem + 1, 256)
        _replace(launch["command"], launch["environment"])
    except (OSError, ValueError) as error:
        os.write(problem, f"{_CANNOT_START}{error}".encode())
    finally:
        os._exit(127)


def _replace(command: Sequence[str], environment: dict[str, str]) -> NoReturn:
    """Encoded as they came: arguments may be any text that is not NUL."""
    encoded = {name.encode(): value.encode(errors="surrogateescape") for name, value in environment.items()}
    arguments = [argument.encode(errors="surrogateescape") for argument in command]
    os.execvpe(arguments[0], arguments, encoded)


def _mount_all(mounts: list[dict[str, Any]], private: bool) -> None:
    """Bind what is mounted, seen by this task only. Where that is not allowed, the server has made links."""
    if not mounts or not private:
        return
    _check(_libc.unshare(_CLONE_NEWNS), "a namespace for mounts")
    _check(_libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None), "private mounts")
    for mount in mounts:
        if not os.path.exists(mount["target"]):  # within what was mounted just now
            os.makedirs(mount["target"])
        source, target = mount["source"].encode(), mount["target"].encode()
        _check(_libc.mount(source, target, None, _MS_BIND | _MS_REC, None), mount["target"])
        if mount["read_only"]:
            flags = _MS_BIND | _MS_REMOUNT | _MS_RDONLY
            _check(_libc.mount(b"none", target, None, flags, None), mount["target"])


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _tree(root: int) -> list[int]:
    """All below a process, those that are only waiting to be reaped not counted."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        children = _children(waiting.pop())
        found += children
        waiting += children
    return [pid for pid in found if not _is_zombie(pid)]


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                found += [int(child) for child in file.read().split()]
    except OSError:
        pass  # it has ended meanwhile
    return found


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return True


def _memory_bytes(pids: Sequence[int]) -> int:
    """What the processes hold of their own: pages that they share with files or each other are not counted."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm") as file:
                _, resident, shared, *_rest = map(int, file.read().split())
        except (OSError, ValueError):
            continue
        total += (resident - shared) * page_bytes
    return total


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise


if __name__ == "__main__":
    Keeper(json.load(sys.stdin)).run()
