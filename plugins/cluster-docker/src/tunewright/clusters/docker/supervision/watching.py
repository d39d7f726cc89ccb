"""Who waits for the ends of an attempt's containers, one thread for each, and tells of a daemon that went away."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from tunewright.clusters.docker.supervision.engine import DaemonGoneError, DockerError, Engine

ASK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class Ended:
    """A container has ended. `exit_code` is None where it is gone."""

    rank: int
    exit_code: int | None


@dataclass(frozen=True)
class DaemonGone:
    """The daemon does not answer."""

    words: str


@dataclass(frozen=True)
class DaemonBack:
    """It does again."""


Event = Ended | DaemonGone | DaemonBack


class Watch:
    """What happens to `containers` from now on."""

    def __init__(self, engine: Engine, containers: Sequence[str]) -> None:
        self._engine = engine
        self._events: SimpleQueue[Event] = SimpleQueue()
        for rank, container in enumerate(containers):
            threading.Thread(target=self._wait, args=(rank, container), daemon=True).start()

    def next_event(self, seconds: float) -> Event | None:
        """What happened next, or None where nothing does for so long."""
        try:
            return self._events.get(timeout=max(seconds, 0.0))
        except Empty:
            return None

    def _wait(self, rank: int, container: str) -> None:
        while True:
            try:
                exit_code = self._engine.wait(container)
            except DaemonGoneError as error:
                self._events.put(DaemonGone(str(error)))
                self._wait_for_daemon()
            except DockerError:
                time.sleep(ASK_AGAIN_SECONDS)
            else:
                self._events.put(Ended(rank, exit_code))
                return

    def _wait_for_daemon(self) -> None:
        while True:
            time.sleep(ASK_AGAIN_SECONDS)
            try:
                self._engine.ping()
            except OSError:
                continue
            self._events.put(DaemonBack())
            return
