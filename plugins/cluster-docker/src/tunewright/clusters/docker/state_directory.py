"""The directory a submission and its supervisor share: its files, and who lives there."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.clusters.docker.plan import PLAN_FILE
from tunewright.contracts.file_locks import is_held
from tunewright.contracts.files import write_bytes_atomically

_SAFE_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,150}")
_LAST_COMPLAINT_CHARACTERS = 300


@dataclass(frozen=True)
class StateDirectory:
    """`<run_dir>/docker/<key>/`."""

    path: Path

    @classmethod
    def of(cls, run_dir: Path, key: str) -> StateDirectory:
        """The directory of the submission `key`; it need not exist. A key that is no file name counts by its digest."""
        name = key if _SAFE_KEY.fullmatch(key) else hashlib.sha256(key.encode()).hexdigest()
        return cls(run_dir / "docker" / name)

    def document(self) -> dict[str, Any] | None:
        """What the supervisor wrote last, or None before its first word."""
        return self._json("state.json")

    def plan(self) -> dict[str, Any] | None:
        """What was submitted, or None where nothing was."""
        return self._json(PLAN_FILE)

    def known(self) -> dict[str, Any] | None:
        """What the submission found out, or None where there was none."""
        return self._json("known.json")

    def _json(self, name: str) -> dict[str, Any] | None:
        try:
            document = json.loads((self.path / name).read_bytes())
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

    def has_begun(self) -> bool:
        """Whether there is a job: until its first containers run, a living supervisor may still be refused."""
        document, is_supervised = self.look()
        return document is not None and not (is_supervised and document.get("state") == "STARTING")

    def complaint(self) -> str:
        """The end of what the supervisor complained of, or nothing."""
        try:
            text = (self.path / "supervisor.log").read_text(errors="replace").strip()
        except OSError:
            return ""
        return text[-_LAST_COMPLAINT_CHARACTERS:].rpartition("\n")[2]

    def write(self, name: str, data: bytes) -> None:
        """Put a file in place as a whole."""
        write_bytes_atomically(self.path / name, data)
