"""What became of one pod: read from its object, as Kubernetes and the start program tell it. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tunewright.clusters.kubernetes.rendering import COUNTED, IGNORED, JOBSET_ATTEMPT
from tunewright.clusters.kubernetes.start_program import PARTNER_LOST
from tunewright.clusters.kubernetes.words import DISRUPTIONS, POD_REASONS, TERMINATED_REASONS
from tunewright.contracts.status import CauseKind

_LARGEST_SIGNAL = 64
_INDEX = "batch.kubernetes.io/job-completion-index"


@dataclass(frozen=True)
class PodEnd:
    """How a pod ended."""

    rank: int
    cause: CauseKind
    exit_code: int | None
    signal: int | None
    message: str
    at_seconds: float
    """When, in seconds since 1970: as its pod tells it, else as Kubernetes does, in whole seconds."""

    is_partner: bool
    """Whether it only followed another one."""

    first: PodEnd | None = None
    """Of one that followed: how the other one ended, where that had time to say so."""


def rank_of(pod: Mapping[str, Any]) -> int:
    """The pod's rank: its completion index."""
    metadata = pod["metadata"]
    return int(metadata.get("annotations", {}).get(_INDEX) or metadata.get("labels", {}).get(_INDEX) or 0)


def attempt_of(pod: Mapping[str, Any]) -> int:
    """Which attempt the pod is, as the controller counted when it made it."""
    annotations = pod["metadata"].get("annotations", {})
    counted = [
        annotations.get(COUNTED),
        annotations.get(IGNORED),
        pod["metadata"].get("labels", {}).get(JOBSET_ATTEMPT),
    ]
    return sum(int(text) for text in counted if text and text.isdecimal())


def container_state(pod: Mapping[str, Any], word: str) -> dict[str, Any] | None:
    """What the pod's container says under `waiting`, `running` or `terminated`."""
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    found: dict[str, Any] | None = (statuses[0].get("state") or {}).get(word)
    return found


def disruption(pod: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Why the pod is being put out, where it is."""
    conditions = pod.get("status", {}).get("conditions") or ()
    found = (one for one in conditions if one.get("type") == "DisruptionTarget" and one.get("status") == "True")
    return next(found, None)


def end_of(pod: Mapping[str, Any]) -> PodEnd | None:
    """How it ended, or None where it has not failed."""
    status = pod.get("status", {})
    terminated = container_state(pod, "terminated")
    if status.get("phase") != "Failed" and not (terminated and terminated.get("exitCode")):
        return None
    terminated = terminated or {}
    told = _told(terminated.get("message", ""))
    code = terminated.get("exitCode")
    signal = _signal(code, terminated, told)
    cause = _cause(pod, terminated, signal)
    return PodEnd(
        rank=rank_of(pod),
        cause=cause,
        exit_code=code if signal is None and cause is CauseKind.EXIT else None,
        signal=signal if cause in (CauseKind.SIGNAL, CauseKind.OUT_OF_MEMORY) else None,
        message=_sentence(pod, terminated, told, cause, signal),
        at_seconds=_moment(told, terminated.get("finishedAt") or _disrupted_at(pod)),
        is_partner=code == PARTNER_LOST and "lost" in told,
        first=_first(told) if code == PARTNER_LOST else None,
    )


def _first(told: Mapping[str, Any]) -> PodEnd | None:
    """What a pod that followed was told by the one that failed."""
    first = told.get("first")
    if not isinstance(first, dict) or not isinstance(first.get("rank"), int):
        return None
    code, signal = (value if isinstance(value := first.get(key), int) else None for key in ("exit_code", "signal"))
    cause = CauseKind.EXIT if signal is None else CauseKind.SIGNAL
    message = f"ended with exit code {code}" if signal is None else f"killed by signal {signal}"
    return PodEnd(first["rank"], cause, code, signal, message, 0.0, is_partner=False)


def _told(message: str) -> Mapping[str, Any]:
    """What the start program said last. Nothing where it had no time for it."""
    try:
        document = json.loads(message)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _signal(code: int | None, terminated: Mapping[str, Any], told: Mapping[str, Any]) -> int | None:
    if told:
        return int(told["signal"]) if isinstance(told.get("signal"), int) else None
    if terminated.get("signal"):
        return int(terminated["signal"])
    return code - 128 if code is not None and 128 < code <= 128 + _LARGEST_SIGNAL else None


def _cause(pod: Mapping[str, Any], terminated: Mapping[str, Any], signal: int | None) -> CauseKind:
    """The first that knows: the container's own end by memory, who put the pod out, the container."""
    by_container = TERMINATED_REASONS.get(terminated.get("reason", ""), CauseKind.EXIT)
    if by_container is CauseKind.OUT_OF_MEMORY:
        return by_container
    disrupted = disruption(pod)
    if disrupted is not None:
        return DISRUPTIONS.get(disrupted.get("reason", ""), CauseKind.EVICTED)
    if (reason := pod.get("status", {}).get("reason")) in POD_REASONS:
        return POD_REASONS[reason]
    return CauseKind.SIGNAL if by_container is CauseKind.EXIT and signal is not None else by_container


def _moment(told: Mapping[str, Any], text: str | None) -> float:
    if isinstance(told.get("at"), int | float):
        return float(told["at"])
    return datetime.fromisoformat(text).timestamp() if text else math.inf


def _disrupted_at(pod: Mapping[str, Any]) -> str | None:
    disrupted = disruption(pod) or {}
    moment: str | None = disrupted.get("lastTransitionTime") or pod["metadata"].get("deletionTimestamp")
    return moment


def _sentence(
    pod: Mapping[str, Any], terminated: Mapping[str, Any], told: Mapping[str, Any], cause: CauseKind, signal: int | None
) -> str:
    """One sentence, in Kubernetes' words where it has some."""
    disrupted = disruption(pod) or {}
    said = disrupted.get("message") or pod.get("status", {}).get("message") or told.get("message") or told.get("lost")
    if cause is CauseKind.OUT_OF_MEMORY:
        return "out of memory: it used more than cluster.options.memory_gib, or than its machine had"
    if said:
        return re.sub(r"\s+", " ", str(said))
    if signal is not None:
        return f"killed by signal {signal}"
    if not told and terminated.get("message"):
        return re.sub(r"\s+", " ", terminated["message"])
    return f"ended with exit code {terminated.get('exitCode', 'unknown')}"
