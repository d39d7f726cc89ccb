"""What decides an imported environment, and the key that follows: equal pins and hashes, equal key, in any format."""

from __future__ import annotations

import platform
from collections.abc import Iterable

from tunewright.contracts.spec import digest_of
from tunewright.env_builder.foreign.lock import ForeignLock, ForeignPin
from tunewright.env_builder.interpreter import VERSION_TEXT

_FORMAT_VERSION = 1


def key_of(pins: Iterable[ForeignPin]) -> str:
    """SHA-256, the name of the environment of `pins`."""
    return digest_of({**_platform("imported"), "pins": [[pin.name, pin.version, list(pin.hashes)] for pin in pins]})


def resolution_key_of(lock: ForeignLock) -> str:
    """SHA-256 of what an index is asked for `lock`: equal questions are asked once."""
    pins = [[pin.name, pin.version, list(pin.extras), list(pin.hashes)] for pin in lock.pins]
    loose = sorted(one.requirement for one in lock.loose)
    return digest_of({**_platform("resolution"), "pins": pins, "loose": loose})


def requirements_text(pins: Iterable[ForeignPin]) -> str:
    """A hashed requirements file of `pins`, with no address in it."""
    lines = [" \\\n    ".join([pin.requirement, *(f"--hash={one}" for one in pin.hashes)]) for pin in pins]
    return "".join(f"{line}\n" for line in lines)


def _platform(kind: str) -> dict[str, object]:
    machine = {"machine": platform.machine(), "system": platform.system(), "python": VERSION_TEXT}
    return {"kind": kind, "format_version": _FORMAT_VERSION, "platform": machine}
