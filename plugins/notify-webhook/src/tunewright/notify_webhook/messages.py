"""What a webhook hears: an event as facts, as a sentence, and as the bytes that are posted. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunewright.contracts.checkpoints import CheckpointRef
from tunewright.contracts.jobs import JobHandle, JobSpec
from tunewright.contracts.provenance import ProvenanceRecord
from tunewright.contracts.status import JobState

_KINDS: Mapping[JobState, str] = {
    JobState.SUCCEEDED: "succeeded",
    JobState.FAILED: "failed",
    JobState.TIMED_OUT: "failed",
    JobState.STOPPED: "stopped",
}
_SIGNS = {"succeeded": ":white_check_mark:", "failed": ":x:", "stopped": ":octagonal_sign:"}


@dataclass(frozen=True)
class Event:
    """One thing that has become of a run."""

    kind: str
    """As in `notifications.on`."""

    run: str
    sentence: str
    """What comes after the run's name."""

    facts: Mapping[str, Any]
    """More of it, for programs."""


def submitted(handle: JobHandle, job: JobSpec) -> Event:
    """The cluster has taken the job."""
    facts = {"cluster": handle.cluster, "native_id": handle.native_id, "run_dir": job.run_dir}
    return Event("submitted", job.run, f"submitted to {handle.cluster} as {handle.native_id}", facts)


def checkpoint_saved(checkpoint: CheckpointRef, job: JobSpec) -> Event:
    """A checkpoint is whole."""
    facts = {"step": checkpoint.step, "path": checkpoint.path}
    return Event("checkpoint", job.run, f"checkpoint after step {checkpoint.step}", facts)


def finished(record: ProvenanceRecord) -> Event:
    """The run has ended."""
    outcome, metrics = record.outcome, record.metrics
    kind = _KINDS.get(outcome.state, "failed")
    facts = {
        "state": outcome.state.value,
        "cause": outcome.cause.value if outcome.cause else None,
        "exit_code": outcome.shell_exit_code,
        "message": outcome.message or metrics.get("error"),
        "steps": metrics.get("steps"),
        "last_loss": metrics.get("last_loss"),
        "evaluation_loss": metrics.get("best_evaluation_loss"),
        "started_at": metrics.get("started_at") or outcome.started_at,
        "ended_at": outcome.ended_at,
        "published": record.published,
    }
    return Event(kind, record.run, _end_in_words(outcome.state, facts), facts)


def _end_in_words(state: JobState, facts: Mapping[str, Any]) -> str:
    words = "ran out of time" if state is JobState.TIMED_OUT else state.value.lower()
    if facts["steps"]:
        words += f" after {facts['steps']} steps"
    if isinstance(facts["last_loss"], (int, float)):
        words += f", loss {facts['last_loss']:.4f}"
    if state is JobState.SUCCEEDED:
        return words
    why = [f"exit code {facts['exit_code']}", *(str(facts[key]) for key in ("cause", "message") if facts[key])]
    return f"{words}: {', '.join(why)}"


def body_of(event: Event, style: str) -> bytes:
    """What is posted: `slack` is one text, `json` is the facts beside `event`, `run` and `text`."""
    if style == "slack":
        sign = f"{_SIGNS[event.kind]} " if event.kind in _SIGNS else ""
        return json.dumps({"text": f"{sign}*{_escaped(event.run)}* {_escaped(event.sentence)}"}).encode()
    text = f"{event.run}: {event.sentence}"
    return json.dumps({"event": event.kind, "run": event.run, "text": text, **event.facts}).encode()


def _escaped(text: str) -> str:
    """The three characters that Slack reads as its own: https://docs.slack.dev/messaging/formatting-message-text."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
