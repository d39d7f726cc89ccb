"""What a killed supervisor left running: finding it, and ending it, without ever hitting a stranger."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from tunewright.clusters.local.supervisor import ControlGroup, identity_of, process_table, send, this_place

_END_SECONDS = 2.0


def is_the_same(process: object) -> bool:
    """Whether [pid, start time] still is the process that was written down, and no later one with its pid."""
    return isinstance(process, list) and len(process) == 2 and identity_of(int(process[0])) == process


def signal_supervisor(document: Mapping[str, Any], number: int) -> None:
    """Signal the supervisor, if its pid means something here and it still is who was written down."""
    process = document.get("supervisor")
    if document.get("place") == this_place() and isinstance(process, list) and is_the_same(process):
        send([process[0]], number)


def strays_of(document: Mapping[str, Any]) -> set[int]:
    """Every process of the job that is left: of its control group, of its session, and those that had left that."""
    if document.get("place") != this_place():
        return set()
    group, main = document.get("group"), document.get("job")
    apart = [process for process in [main, *document.get("apart", [])] if is_the_same(process)]
    found = {int(process[0]) for process in apart} | (ControlGroup(group).members() if group else set())
    return (found | _session_of(main) if main else found) - {os.getpid()}


def _session_of(main: list[int]) -> set[int]:
    """The session the job's main process led. Where that pid leads another one by now, nobody."""
    pid, start_time = main
    table = process_table()
    if pid in table and table[pid].start_time != start_time:
        return set()
    return {row.pid for row in table.values() if row.session == pid and row.start_time >= start_time}


def end_strays(document: Mapping[str, Any]) -> None:
    """Kill them all, and take the control group away."""
    deadline = time.monotonic() + _END_SECONDS
    while (left := strays_of(document)) and time.monotonic() < deadline:
        send(left, signal.SIGKILL)
        time.sleep(0.01)
    if document.get("group"):
        ControlGroup(document["group"]).remove()
