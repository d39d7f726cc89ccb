"""Trying again after what may pass: how often, and how long to wait in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class RetryPolicy:
    """Waits double from one try to the next."""

    attempts: int = 6
    """Tries without any progress before giving up."""

    first_wait_seconds: float = 1.0
    """The wait after the first failure."""

    longest_wait_seconds: float = 60.0
    """No wait is longer, whatever the server asks for."""

    def wait_seconds(self, failures: int, asked_seconds: float | None) -> float:
        """The wait after so many failures in a row; `asked_seconds` is what the server asked for."""
        own = self.first_wait_seconds * 2.0 ** (failures - 1)
        return min(self.longest_wait_seconds, max(own, asked_seconds or 0.0))


@dataclass(frozen=True)
class Listener:
    """Who is told how it goes."""

    note: Callable[[str], None]
    """Say something to people."""

    advance: Callable[[int], None] = lambda _: None
    """So many bytes came, or (negative) were thrown away. May raise, to end it."""

    pause: Callable[[float], object] = time.sleep
    """Wait so many seconds. May return sooner, and raise, to end it."""


class MayPass(Exception):
    """Something failed that may work when it is tried again."""

    def __init__(self, reason: str, asked_seconds: float | None = None) -> None:
        super().__init__(reason, asked_seconds)
        self.reason = reason
        self.asked_seconds = asked_seconds


def retrying(
    policy: RetryPolicy, action: Callable[[], Result], listener: Listener, position: Callable[[], int]
) -> Result:
    """The result of `action`, which may raise MayPass; the last one is raised on.

    Only tries that leave `position()` (bytes that came) where it was are counted: what moves on is not given up.
    """
    failures = 0
    while True:
        before = position()
        try:
            return action()
        except MayPass as error:
            failures = 1 if position() > before else failures + 1
            if failures >= policy.attempts:
                raise
            wait_seconds = policy.wait_seconds(failures, error.asked_seconds)
            listener.note(f"{error.reason}; trying again in {wait_seconds:.0f} s")
            listener.pause(wait_seconds)
