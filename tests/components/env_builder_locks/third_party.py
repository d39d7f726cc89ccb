"""A small third-party folder, written for a test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.preflight import Finding
from tunewright.env_builder.locks.project import FOLDER

HASH = "--hash=sha256:" + "a" * 64


def lock_text(*pins: str) -> str:
    """A lock of these pins (`torch==2.13.0`), each with a hash."""
    return "".join(f"{pin} \\\n    {HASH}\n" for pin in pins)


def codes(findings: list[Finding]) -> list[str]:
    """The findings' codes, in their order."""
    return [finding.code for finding in findings]


@dataclass(frozen=True)
class ThirdParty:
    """A checkout with nothing but a third-party folder."""

    root: Path

    def write(self, name: str, text: str) -> None:
        """Write one file of the folder."""
        file = self.root / FOLDER / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def resolve(self, name: str, requirements: str, *pins: str) -> None:
        """Write a resolve: what is asked for, and its lock."""
        self.write(f"{name}.in", requirements)
        self.write(f"{name}.lock", lock_text(*pins))
