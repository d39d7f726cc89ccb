"""Runs in every pod as its first process: starts the job's command there, and tells what became of it.

Kubernetes changes arguments and variables that look like references, keeps only the last megabytes of a log, and starts
a failed pod again without its partners. So the command, its arguments and its variables come as JSON in an annotation,
which nothing expands; output goes to the run's directory too; and the nodes of a job hold on to each other by a TCP
connection to node 0: they start together, a node that fails or goes away ends the others, and so the next attempt is
one of all nodes. How it ended is the pod's termination message. Nothing but the standard library of Python 3.8.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

MESSAGE_FILE = "/dev/termination-log"
PARTNER_LOST = 113
"""The exit code of a pod whose command was ended because another node was lost."""

BEAT_SECONDS = 5.0
SILENCE_SECONDS = 30.0
_OWN = "TUNEWRIGHT_START"
_SERVICE = "KUBERNETES_"
_RETRY_SECONDS = 0.25
_LOOK_SECONDS = 0.03
_FAREWELL_SECONDS = 2.0
_PIPE_BYTES = 1 << 16
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class LostError(Exception):
    """Another node is gone."""


class Peer:
    """A connection to another node: lines of words, and when it was last heard of."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self.connection = connection
        self.name = name
        self.heard_at = time.monotonic()
        self.buffer = b""
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self) -> list[list[str]]:
        """The lines that have arrived. Raises LostError where the other side is gone."""
        try:
            data = self.connection.recv(4096)
        except BlockingIOError:
            return []
        except OSError as error:
            raise LostError(f"{self.name} is gone: {error.strerror}") from None
        if not data:
            raise LostError(f"{self.name} is gone")
        self.heard_at = time.monotonic()
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        return [line.decode("utf-8", "replace").split() for line in lines]

    def send(self, *words: object) -> None:
        """Say a line. A connection that is broken is noticed when it is read."""
        with contextlib.suppress(OSError):
            self.connection.sendall(" ".join(map(str, words)).encode() + b"\n")


class Link:
    """What ties a node to the others. A job of one node has no others."""

    def __init__(self, selector: selectors.BaseSelector, start: dict[str, Any], rank: int) -> None:
        self.selector = selector
        self.start = start
        self.rank = rank
        self.peers: list[Peer] = []
        self.has_ended_well = False
        self.may_go = start["nodes"] == 1
        self.done: set[str] = set()
        self.first_end: dict[str, Any] | None = None  # of the node whose end is the others' too, as it told it itself
        self.beaten_at = time.monotonic()

    def join(self, attempt: int) -> int:
        """Wait until all nodes are here. Gives the attempt that they agree on: the largest that one of them counts."""
        if self.start["nodes"] == 1:
            return attempt
        deadline = time.monotonic() + self.start["join_seconds"]
        agreed = self._gather(attempt, deadline) if self.rank == 0 else self._enlist(attempt, deadline)
        for peer in self.peers:
            peer.heard_at = time.monotonic()
            self.selector.register(peer.connection, selectors.EVENT_READ, peer)
        return agreed

    def _gather(self, attempt: int, deadline: float) -> int:
        """Node 0: the newest connection of each rank counts, since its pod may have been started again."""
        attempts = {0: attempt}
        known: dict[int, Peer] = {}
        waiting: list[Peer] = []
        listener = socket.create_server(("", self.start["link_port"]), backlog=512)
        listener.setblocking(False)
        while len(known) < self.start["nodes"] - 1:
            _see_time(deadline, f"{self.start['nodes'] - 1 - len(known)} nodes never came")
            try:
                waiting.append(Peer(listener.accept()[0], "a node"))
            except BlockingIOError:
                time.sleep(_LOOK_SECONDS)
            for peer in [*waiting, *known.values()]:
                try:
                    for rank, counted in self._greetings(peer):
                        known[rank], attempts[rank] = peer, counted
                except (LostError, ValueError, IndexError):
                    known = {rank: one for rank, one in known.items() if one is not peer}
                    waiting = [one for one in waiting if one is not peer]
            waiting = [peer for peer in waiting if peer not in known.values()]
        listener.close()
        self.peers = [known[rank] for rank in sorted(known)]
        agreed = max(attempts[rank] for rank in (0, *known))
        for peer in self.peers:
            peer.send("start", agreed)
        return agreed

    def _greetings(self, peer: Peer) -> Iterator[tuple[int, int]]:
        """The rank and the attempt of a node of this job that says hello."""
        for words in peer.read():
            if words[:2] == ["hello", self.start["name"]]:
                rank = int(words[2])
                if not 0 < rank < self.start["nodes"]:
                    raise ValueError(rank)
                peer.name = f"node {rank}"
                yield rank, int(words[3])

    def _enlist(self, attempt: int, deadline: float) -> int:
        """Another node: node 0 may not be there yet, or be an old one that is just going."""
        while True:
            _see_time(deadline, f"node 0 never came to {self.start['master']}")
            try:
                address = (self.start["master"], self.start["link_port"])
                peer = Peer(socket.create_connection(address, timeout=5), "node 0")
            except OSError:
                time.sleep(_RETRY_SECONDS)
                continue
            peer.send("hello", self.start["name"], self.rank, attempt)
            try:
                while True:
                    _see_time(deadline, "node 0 never started")
                    for words in peer.read():
                        if words[:1] == ["start"]:
                            self.peers = [peer]
                            return int(words[1])
                    time.sleep(_LOOK_SECONDS)
            except LostError:
                time.sleep(_RETRY_SECONDS)

    def hear(self, peer: Peer) -> None:
        """Read what a node says. Raises LostError where it is gone before all have ended well."""
        try:
            for words in peer.read():
                if words == ["done"]:
                    self.done.add(peer.name)
                elif words == ["go"]:
                    self.may_go = True
                elif words[:1] == ["ended"] and self.first_end is None:
                    self.first_end = json.loads(" ".join(words[1:]))
        except LostError:
            if not self.may_go:
                raise
            self.selector.unregister(peer.connection)
        self._let_go()

    def end_well(self) -> None:
        """This node's command has ended well; it stays until all have, so that all start again where one has not."""
        self.has_ended_well = True
        if self.rank != 0:
            for peer in self.peers:
                peer.send("done")
        self._let_go()

    def tell_end(self, end: dict[str, Any]) -> None:
        """Say how a command failed: whoever follows may be asked before Kubernetes knows of this pod's end."""
        self.first_end = self.first_end or end
        for peer in self.peers:
            peer.send("ended", json.dumps(self.first_end))

    def _let_go(self) -> None:
        if self.rank == 0 and self.has_ended_well and len(self.done) == len(self.peers) and not self.may_go:
            self.may_go = True
            for peer in self.peers:
                peer.send("go")

    def part(self) -> None:
        """Say good-bye so that the last word arrives: what is closed with words unread may take others with it."""
        deadline = time.monotonic() + _FAREWELL_SECONDS
        for peer in self.peers if self.rank == 0 and self.may_go else []:
            try:
                peer.connection.shutdown(socket.SHUT_WR)
                while time.monotonic() < deadline:
                    peer.read()
                    time.sleep(_LOOK_SECONDS)
            except (LostError, OSError):
                continue

    def beat(self) -> None:
        """Be heard of, and see that the others are. Raises LostError."""
        now = time.monotonic()
        if now - self.beaten_at >= BEAT_SECONDS:
            self.beaten_at = now
            for peer in self.peers:
                peer.send("beat")
        silent = [peer.name for peer in self.peers if now - peer.heard_at > SILENCE_SECONDS]
        if silent and not self.may_go:
            raise LostError(f"{silent[0]} was not heard of for {SILENCE_SECONDS:.0f} seconds")


def _see_time(deadline: float, complaint: str) -> None:
    if time.monotonic() > deadline:
        raise LostError(complaint)


class Output:
    """Where the command's output goes: the pod's own output, and the log in the run's directory, all attempts."""

    def __init__(self, path: str) -> None:
        self.places = [1]
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self.places.append(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError as error:
            self.write(f"tunewright: no log in {path}: {error.strerror}\n".encode())

    def write(self, data: bytes) -> None:
        """All of it, everywhere. A place that takes no more is left."""
        for place in list(self.places):
            rest = memoryview(data)
            try:
                while rest:
                    rest = rest[os.write(place, rest) :]
            except OSError:
                self.places.remove(place)


class Pod:
    """One attempt of one node: its command, from start to end."""

    def __init__(self, start: dict[str, Any], rank: int, attempt: int) -> None:
        self.start = start
        self.rank = rank
        self.attempt = attempt
        self.selector = selectors.DefaultSelector()
        self.link = Link(self.selector, start, rank)
        self.output = Output(f"{start['directory']}/logs/replica-{rank}.log")
        self.child = 0
        self.status: int | None = None
        self.kill_at = float("inf")
        self.told = 0
        self.lost = ""

    def run(self) -> int:
        """From joining the others to the exit code of the pod."""
        self._listen_to_signals()
        try:
            os.makedirs(self.start["directory"], exist_ok=True)
            os.chdir(self.start["directory"])
            self.attempt = self.link.join(self.attempt)
            self._spawn()
        except LostError as error:
            return self._say(PARTNER_LOST, lost=str(error))
        except OSError as error:
            self.output.write(f"tunewright: cannot start: {error.filename}: {error.strerror}\n".encode())
            code = 127 if error.errno == errno.ENOENT else 126
            return self._say(code, message=f"cannot start {error.filename!r}: {error.strerror}")
        while self._is_busy():
            self._turn()
        return self._end()

    def _listen_to_signals(self) -> None:
        # As the first process of its pod it gets no signal that it does not ask for.
        self.wakeup, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (*_PASSED_ON, signal.SIGCHLD):
            signal.signal(number, self._on_signal)
        self.selector.register(self.wakeup, selectors.EVENT_READ, None)

    def _on_signal(self, number: int, _frame: object) -> None:
        if number == signal.SIGCHLD:
            return
        self.told = number
        if not self.child:
            os._exit(self._say(128 + number, signal=number, message="ended before its command had started"))
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        _send(self.child, number)
        if number in (signal.SIGTERM, signal.SIGINT):
            # A little before the grace of the pod is over, so that there is time to say how it ended.
            grace_seconds = max(self.start["grace_seconds"] - 1.0, self.start["grace_seconds"] / 2)
            self.kill_at = min(self.kill_at, time.monotonic() + grace_seconds)

    def _spawn(self) -> None:
        command = self.start["command"]
        # What the command leaves when it ends comes to this process, which alone knows when all have ended.
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=variables_of(dict(os.environ), self.start, self.rank, self.attempt),
                bufsize=0,
            )
        except OSError as error:
            error.filename = command[0]
            raise
        assert process.stdout is not None
        self.child, self.pipe = process.pid, process.stdout.fileno()
        self.process = process
        fcntl.fcntl(self.pipe, fcntl.F_SETFL, fcntl.fcntl(self.pipe, fcntl.F_GETFL) | os.O_NONBLOCK)
        self.selector.register(self.pipe, selectors.EVENT_READ, None)

    def _is_busy(self) -> bool:
        if self.status is None:
            return True
        return self.status == 0 and not self.lost and not self.link.may_go

    def _turn(self) -> None:
        """Wait for something to happen, and see to it."""
        for key, _ in self.selector.select(timeout=0.5):
            if key.fd == self.wakeup:
                os.read(self.wakeup, 4096)
            elif isinstance(key.data, Peer):
                self._hear(key.data)
            else:
                self._copy()
        self._reap()
        self._watch()

    def _hear(self, peer: Peer) -> None:
        try:
            self.link.hear(peer)
        except LostError as error:
            self.selector.unregister(peer.connection)
            self._lose(str(error))

    def _watch(self) -> None:
        try:
            self.link.beat()
        except LostError as error:
            self._lose(str(error))
        if time.monotonic() > self.kill_at and self.status is None:
            _send(self.child, signal.SIGKILL)

    def _lose(self, what: str) -> None:
        if not self.lost and self.status in (None, 0):
            self.lost = what
            if self.status is None:
                self._pass_on(signal.SIGTERM)

    def _copy(self) -> bool:
        """Pass on what the command wrote. False where there is nothing (more) at the moment."""
        try:
            data = os.read(self.pipe, _PIPE_BYTES)
        except BlockingIOError:
            return False
        if not data:
            with contextlib.suppress(KeyError):
                self.selector.unregister(self.pipe)
            return False
        self.output.write(data)
        return True

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self.child:
                self.process.returncode = status
                self._command_ended(status)

    def _command_ended(self, status: int) -> None:
        end_what_is_left()
        while self._copy():
            pass
        self.status = status
        if status == 0 and not self.lost:
            self.link.end_well()

    def _end(self) -> int:
        status = self.status or 0
        is_partner = bool(self.lost) and (status == 0 or self._was_ended_by_us(status))
        if status and not is_partner:
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
            code = None if number else os.WEXITSTATUS(status)
            self.link.tell_end({"rank": self.rank, "exit_code": code, "signal": number})
        elif is_partner and self.link.first_end:
            self.link.tell_end(self.link.first_end)  # node 0 knows all, the others only node 0
        self.link.part()
        if is_partner:
            return self._say(PARTNER_LOST, lost=self.lost, first=self.link.first_end)
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            return self._say(128 + number, signal=number, told=self.told)
        return self._say(os.WEXITSTATUS(status), exit_code=os.WEXITSTATUS(status), told=self.told)

    def _was_ended_by_us(self, status: int) -> bool:
        """Whether the command ended as one that was asked to. One that had failed by itself says why, in its code."""
        return os.WIFSIGNALED(status) or os.WEXITSTATUS(status) in (75, 130, 143)

    def _say(self, code: int, **what: object) -> int:
        """Leave word of how it ended, for whoever asks Kubernetes."""
        text = json.dumps({"attempt": self.attempt, "at": round(time.time(), 3), **what})
        with contextlib.suppress(OSError), open(MESSAGE_FILE, "w", encoding="utf-8") as file:
            file.write(text)
        return code


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def end_what_is_left() -> None:
    """End whatever the command has left running. Only the first process of a pod may: elsewhere it would be others."""
    if os.getpid() == 1:
        with contextlib.suppress(OSError):
            os.kill(-1, signal.SIGKILL)


def variables_of(given: dict[str, str], start: dict[str, Any], rank: int, attempt: int) -> dict[str, str]:
    """What the command gets: the image's variables and its secrets, then the planned ones, then ours."""
    drops = (_OWN, "JOB_COMPLETION_INDEX") if start["has_service_account"] else (_OWN, "JOB_COMPLETION_INDEX", _SERVICE)
    kept = {name: value for name, value in given.items() if not name.startswith(drops)}
    secrets = {name: given[name] for name in start["secrets"] if name in given}
    own = {"TUNEWRIGHT_ATTEMPT": str(attempt)}
    if start["nodes"] > 1:
        own["TUNEWRIGHT_NODE_RANK"] = str(rank)
        own["TUNEWRIGHT_MASTER_ADDRESS"] = start["master"]
        own["TUNEWRIGHT_MASTER_PORT"] = str(start["port"])
    return {**kept, **start["defaults"], **secrets, **start["variables"], **own}


def main() -> int:
    """Read what Kubernetes told, and run the command."""
    text = os.environ[_OWN]
    # A rendering whose pods have no annotations of ours has it in a variable, in letters that nothing expands.
    start = json.loads(text if text.startswith("{") else base64.b64decode(text))
    start["name"] = os.environ[_OWN + "_NAME"]
    start["master"] = os.environ.get(_OWN + "_MASTER", "")
    counted = [os.environ.get(_OWN + name) or "0" for name in ("_FAILURES", "_DISRUPTIONS")]
    return Pod(start, int(os.environ.get("JOB_COMPLETION_INDEX") or "0"), sum(map(int, counted))).run()


if __name__ == "__main__":
    sys.exit(main())
