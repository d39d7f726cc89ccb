"""What an installed distribution says of itself."""

from __future__ import annotations

from collections.abc import Callable

ReadMetadata = Callable[[str], str | None]
"""Reads one file of a distribution's metadata; None where there is no such file."""


def name_and_version(read: ReadMetadata) -> tuple[str, str]:
    """As its metadata has them, `?` for what it does not tell.

    From the head of the file: parsing it as the message that it is takes ten times as long, most of it being a README.
    """
    text = read("METADATA") or read("PKG-INFO") or ""
    head = text.replace("\r\n", "\n").partition("\n\n")[0]
    values = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
    return values.get("Name", "?").strip(), values.get("Version", "?").strip()
