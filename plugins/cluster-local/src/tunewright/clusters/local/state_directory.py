"""The directory a submission and its supervisor share: its files, and who lives there."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.clusters.local.plan import PLAN_FILE
from tunewright.contracts.file_locks import is_held

_SAFE_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,150}")
_LAST_COMPLAINT_CHARACTERS = 300


@dataclass(frozen=True)
class StateDirectory:
    """`<run_dir>/local/<key>/`."""

    path: Path

    @classmethod
    def of(cls, run_dir: Path, key: str) -> StateDirectory:
        """The directory of the submission `key`; it need not exist. A key that is no file name counts by its digest."""
        name = key if _SAFE_KEY.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()
        return cls(run_dir / "local" / name)

    def document(self) -> dict[str, Any] | None:
        """What the supervisor wrote last, or None before its first word."""
        try:
            document = json.loads((self.path / "state.json").read_bytes())
        except OSError:
            return None
        except ValueError:
            return {}
        return document if isinstance(document, dict) else {}

    def look(self) -> tuple[dict[str, Any] | None, bool]:
        """The document, and whether a supervisor lives. Of a job without one, the document is its last word."""
        document = self.document()
        if self.is_supervised():
            return document, True
        # It may have said more, and ended, since we read.
        return self.document(), False

    def is_supervised(self) -> bool:
        """Whether a supervisor lives: it holds the lock as long as it does, and no other process can have it."""
        try:
            return is_held(self.path / "lock")
        except OSError:  # of a place that we may not look at, its document is the last word
            return False

    def complaint(self) -> str:
        """The end of what the supervisor complained of, or nothing."""
        try:
            text = (self.path / "supervisor.log").read_text(errors="replace").strip()
        except OSError:
            return ""
        return text[-_LAST_COMPLAINT_CHARACTERS:].rpartition("\n")[2]

    def log(self) -> Path | None:
        """Where the job's output goes, or None where nothing was submitted."""
        try:
            return Path(json.loads((self.path / PLAN_FILE).read_bytes())["log"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, name: str, text: str) -> None:
        """Put a file in place as a whole. Not synced: after a power cut there is no job for it to speak of."""
        temporary = self.path / f".{name}.{os.getpid()}.{os.urandom(4).hex()}.tmp"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.path / name)
