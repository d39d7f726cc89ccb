"""`events.jsonl`: every change of state once, with time and cause."""

from __future__ import annotations

import json
from typing import Any

from tunewright.contracts.files import append_line
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobStatus
from tunewright.contracts.timestamps import utc_now
from tunewright.launcher.run_store import last_line

_KEYS = ("state", "cause", "exit_code", "signal", "attempt", "message")


def record_event(run: RunDir, status: JobStatus) -> dict[str, Any] | None:
    """Append the state if it differs from the last one. Gives the event, or None where nothing changed."""
    document = status.to_document()
    event = {key: document[key] for key in _KEYS}
    last = last_line(run.events)
    if {key: last.get(key) for key in _KEYS} == event:
        return None
    event = {"time": utc_now(), **event}
    append_line(run.events, json.dumps(event, ensure_ascii=False))
    return event
