"""`state.json`: what is known of a job, replaced as a whole at each change, and read again by the next supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from typing import Any

STATE_FILE = "state.json"
_TOLD = ("cause", "exit_code", "signal", "message")

# What is to be done next. A supervisor that takes over a job goes on from here.
START, WATCH, CONCLUDE, ENDED = "start", "watch", "conclude", "ended"


def now() -> str:
    """The time, as `tunewright.contracts.timestamps` writes it."""
    moment = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(moment))}.{int(moment * 1000) % 1000:03d}Z"


def this_place() -> dict[str, str]:
    """The machine, and its start."""
    boot = ""
    with contextlib.suppress(OSError), open("/proc/sys/kernel/random/boot_id") as file:
        boot = file.read().strip()
    return {"host": os.uname().nodename, "boot": boot}


class Record:
    """The document of one job. Reading it costs nothing; each change is written at once."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.document: dict[str, Any] = {
            "state": None, "phase": START, "attempt": 0, "started_at": None, "deadline": None, "place": this_place(),
            "supervisor": os.getpid(), "containers": [], "outcome": None, "history": [],
        }  # fmt: skip

    @classmethod
    def find(cls, directory: str) -> Record | None:
        """The record that an earlier supervisor left, or None."""
        try:
            with open(os.path.join(directory, STATE_FILE), encoding="utf-8") as file:
                document = json.load(file)
        except OSError:
            return None
        record = cls(directory)
        record.document = {**record.document, **document, "place": this_place(), "supervisor": os.getpid()}
        return record

    @property
    def phase(self) -> str:
        """What is to be done next."""
        return str(self.document["phase"])

    @property
    def attempt(self) -> int:
        """0 for the first start."""
        return int(self.document["attempt"])

    @property
    def containers(self) -> list[str]:
        """The ids of this attempt's containers, by rank."""
        return list(self.document["containers"])

    def change(self, **values: Any) -> bool:
        """Know more, and write it down. False where it cannot be written: a full disk must not harm a running job."""
        self.document.update(values)
        return self._write()

    def change_state(self, state: str, **values: Any) -> bool:
        """Go over to `state`, with what is now known, and keep it in the history."""
        told = {key: value for key, value in values.items() if key in _TOLD}
        self.document["history"].append({"time": now(), "state": state, "attempt": self.attempt, **told})
        return self.change(state=state, **values)

    def forget(self) -> None:
        """Take the file away: there is no such job."""
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(self.directory, STATE_FILE))

    def _write(self) -> bool:
        temporary = os.path.join(self.directory, f".{STATE_FILE}.tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(json.dumps(self.document, indent=1))
                file.flush()
                os.fsync(file.fileno())  # its containers survive a power cut, as what ended
            os.replace(temporary, os.path.join(self.directory, STATE_FILE))
        except OSError as error:
            print(f"cannot write {STATE_FILE}: {error}", file=sys.stderr, flush=True)
            return False
        return True
