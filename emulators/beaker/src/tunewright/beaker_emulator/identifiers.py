"""Identifiers and names as Beaker gives them: ULIDs, which sort by the time they were made, and pairs of words."""

from __future__ import annotations

import re
import secrets
import threading
import time

from tunewright.beaker_emulator.refusals import InvalidRequest

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_RANDOM_BITS = 80
_ADJECTIVES = ("brave", "calm", "eager", "fair", "gentle", "keen", "lucid", "merry", "noble", "quiet", "sturdy", "wise")
_NOUNS = ("badger", "crane", "dolphin", "falcon", "heron", "ibis", "lynx", "marten", "otter", "plover", "raven", "seal")
_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]*")


class _Clock:
    """Numbers that only grow: milliseconds, then what is random."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def tick(self) -> int:
        with self._lock:
            drawn = (time.time_ns() // 1_000_000) << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
            self._last = max(drawn, self._last + 1)
            return self._last


_clock = _Clock()


def new_id() -> str:
    """A ULID: 26 characters, later ones sort after earlier ones even within one millisecond."""
    return as_ulid(_clock.tick())


def as_ulid(number: int) -> str:
    """The 128 bits of a number in Crockford's base 32."""
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def new_name() -> str:
    """A name for what was given none."""
    words = secrets.choice(_ADJECTIVES), secrets.choice(_NOUNS), str(secrets.randbelow(100_000))
    return "-".join(words)


def checked_name(name: str, what: str) -> str:
    """`name`, where it is one: letters, digits, periods, dashes and underscores, no dash first."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"invalid name {name!r} for {what}: letters, digits, periods, dashes and underscores, no dash first"
        )
    return name
