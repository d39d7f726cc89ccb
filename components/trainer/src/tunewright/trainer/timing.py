"""Where the time goes: seconds by phase, speed, and peak memory, for the lines of `metrics.jsonl`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from tunewright.trainer.efficiency import ModelCost
from tunewright.trainer.feeding import StepPlan

PHASES = ("data", "forward", "backward", "optimizer")
BETWEEN_STEPS = ("checkpoint", "evaluation")


class PhaseClock:
    """Seconds by phase: of the last step that is logged, and of what happened between steps since the line before.

    A GPU works on after a call has come back: steps that are logged wait for it at each phase's end, others do not.
    """

    def __init__(self, device: torch.device) -> None:
        self._waits = device.type == "cuda"
        self._is_measured = True
        self._seconds = dict.fromkeys((*PHASES, *BETWEEN_STEPS), 0.0)

    def begin_step(self, is_logged: bool) -> None:
        """A step begins."""
        self._is_measured = is_logged
        self._seconds |= dict.fromkeys(PHASES, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What is done within it takes its time."""
        measured = self._is_measured or name in BETWEEN_STEPS
        started = self._now() if measured else 0.0
        try:
            yield
        finally:
            if measured:
                self._seconds[name] += self._now() - started

    def _now(self) -> float:
        if self._waits:
            torch.cuda.synchronize()
        return time.monotonic()

    @property
    def between_steps(self) -> float:
        """Seconds since the line before that no step was computed in."""
        return sum(self._seconds[name] for name in BETWEEN_STEPS)

    def taken(self) -> dict[str, float]:
        """Seconds by phase, for a line; those between steps begin anew."""
        seconds = {name: round(value, 6) for name, value in self._seconds.items()}
        self._seconds |= dict.fromkeys(BETWEEN_STEPS, 0.0)
        return seconds


class IntervalClock:
    """Speed, padding and use of the machine since the line before."""

    def __init__(self, cost: ModelCost, peak_tflops: float | None, num_processes: int) -> None:
        self._cost = cost
        self._peak = peak_tflops * 1e12 * num_processes if peak_tflops is not None else None
        self._begin()

    def _begin(self) -> None:
        self._started, self._tokens, self._filler_tokens, self._operations = time.monotonic(), 0, 0, 0.0

    def step_done(self, plan: StepPlan, filler_tokens: int) -> None:
        """Take in a step: what all processes computed, and what they computed only to keep step."""
        self._tokens += plan.num_tokens
        self._filler_tokens += filler_tokens
        self._operations += self._cost.operations(plan.num_tokens, plan.num_trained, plan.squared_lengths)

    def taken(self, between_steps: float) -> dict[str, Any]:
        """The line's part; the next interval begins. `between_steps`: seconds of it that count in no `mfu`."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        line: dict[str, Any] = {
            "tokens_per_second": round(self._tokens / seconds, 1),
            "padding_ratio": round(self._filler_tokens / max(1, self._tokens + self._filler_tokens), 6),
        }
        if self._peak is not None:
            line["mfu"] = round(self._operations / (max(seconds - between_steps, 1e-9) * self._peak), 6)
        self._begin()
        return line


def peak_memory_bytes(device: torch.device) -> int:
    """The most this process has had: of the GPU's memory where it computes on one, else resident in the host's."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resident_bytes("VmHWM")


def resident_bytes(key: str = "VmRSS") -> int:
    """Memory of this process in the host now (`VmRSS`), or the most it has had (`VmHWM`), as Linux counts it.

    Elsewhere it is the most it has had.
    """
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{key}:"))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
