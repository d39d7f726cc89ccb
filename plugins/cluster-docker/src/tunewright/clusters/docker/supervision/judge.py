"""What became of an attempt, from how its containers ended. Pure."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# The trainer's and the launcher's words for "the input is wrong": another attempt would end the same.
HOPELESS_EXIT_CODES = (64, 65, 66, 77, 78)
LARGEST_SIGNAL = 64


@dataclass(frozen=True)
class NodeEnd:
    """How one container ended."""

    rank: int
    exit_code: int | None
    """None: the container is gone, and nobody knows."""

    is_out_of_memory: bool = False
    """Docker's `OOMKilled`: also true where only a child was killed, and the job went on well."""

    finished_at: str = ""
    """Docker's time of its end."""

    complaint: str = ""
    """Why its command could not be started, where it could not."""

    @property
    def signal(self) -> int | None:
        """The signal that killed it: the first process of a container tells it as 128 + n."""
        number = (self.exit_code or 0) - 128
        return number if 0 < number <= LARGEST_SIGNAL else None


def judge(ended_by: str | None, ends: Sequence[NodeEnd], plan: dict[str, Any]) -> dict[str, Any]:
    """State, cause, exit code, signal and a sentence. `ended_by`: why we ended it, None where it ended by itself."""
    first = first_to_fail(ends) or ends[0]
    state, cause, message = _verdict_on_ended(ended_by, plan) if ended_by else _verdict(first, plan)
    if not ended_by and message and len(ends) > 1:
        message = f"node {first.rank} {message}"
    return outcome(state, cause, message, None if first.signal else first.exit_code, first.signal)


def outcome(
    state: str, cause: str, message: str, exit_code: int | None = None, number: int | None = None
) -> dict[str, Any]:
    """An outcome as `state.json` has it."""
    return {"state": state, "cause": cause, "exit_code": exit_code, "signal": number, "message": message}


def first_to_fail(ends: Sequence[NodeEnd]) -> NodeEnd | None:
    """Of the nodes that failed, the first to end: the others may have failed of that."""
    failed = [end for end in ends if end.exit_code != 0]
    return min(failed, key=lambda end: _moment(end.finished_at)) if failed else None


def _moment(text: str) -> tuple[str, str]:
    """Docker leaves zeros at the end of a fraction out, so that its times do not sort as texts."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")


def _verdict(end: NodeEnd, plan: dict[str, Any]) -> tuple[str, str, str]:
    if end.exit_code == 0:
        return "SUCCEEDED", "exit", ""
    if end.exit_code is None:
        return "FAILED", "node_lost", "lost its container: somebody removed it"
    if end.complaint:
        return "FAILED", "image_missing", f"could not start: {end.complaint}"
    if end.is_out_of_memory:
        limit = plan["memory_gib"]
        why = f"needed more than memory_gib = {limit}" if limit else "ran out of memory"
        return "FAILED", "out_of_memory", why
    if end.signal is not None:
        return "FAILED", "signal", f"was killed by {signal_name(end.signal)}"
    return "FAILED", "exit", f"ended with exit code {end.exit_code}"


def _verdict_on_ended(ended_by: str, plan: dict[str, Any]) -> tuple[str, str, str]:
    if ended_by == "timeout":
        return "TIMED_OUT", "timeout", f"ran longer than time_limit_seconds = {plan['time_limit_seconds']}"
    return "STOPPED", "stopped", ended_by


def may_try_again(ended: dict[str, Any], attempt: int, max_retries: int) -> bool:
    """Whether another attempt is left and could end better. What cannot be started stays so."""
    is_hopeless = ended["cause"] == "image_missing" or ended["exit_code"] in HOPELESS_EXIT_CODES
    return attempt < max_retries and ended["state"] == "FAILED" and not is_hopeless


def signal_name(number: int) -> str:
    """`SIGKILL` for 9; real-time signals have numbers only."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
