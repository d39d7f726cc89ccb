"""What a user sees of a run that is followed: a bar on a terminal, plain lines elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from types import TracebackType
from typing import Any, Protocol

import click

_SECONDS_BETWEEN_LINES = 5.0


def json_line(document: dict[str, Any]) -> str:
    """One line of JSON that every reader takes: a loss that is no number is null, not Python's own NaN."""
    try:
        return json.dumps(document, ensure_ascii=False, allow_nan=False)
    except ValueError:
        numbers = {key: None if is_no_number(value) else value for key, value in document.items()}
        return json.dumps(numbers, ensure_ascii=False)


def is_no_number(value: object) -> bool:
    """Whether it is what Python calls `nan` or `inf`, which JSON does not have."""
    return isinstance(value, float) and not math.isfinite(value)


class Reporter(Protocol):
    """Told of each change of state and each logged step, in order. A context manager."""

    def state(self, event: dict[str, Any]) -> None:
        """The run has changed its state."""

    def metrics(self, line: dict[str, Any]) -> None:
        """A step was logged."""

    def __enter__(self) -> Reporter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def reporter_for(as_json: bool, quiet: bool = False) -> Reporter:
    """The reporter that fits where the output goes."""
    if as_json:
        return JsonReporter()
    if quiet:
        return QuietReporter()
    return BarReporter() if sys.stderr.isatty() else LineReporter()


def seconds_left(line: dict[str, Any]) -> float | None:
    """The time the remaining steps will take at the mean pace so far, or None before that can be said."""
    step, steps, elapsed = line.get("step"), line.get("max_steps"), line.get("elapsed_seconds")
    return elapsed / step * (steps - step) if step and steps and elapsed else None


def clock(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def metrics_text(line: dict[str, Any]) -> str:
    """One step in words: `step 40/120  loss 3.217  12,345 tokens/s  1:05 left`."""
    parts = [f"step {line.get('step')}/{line.get('max_steps', '?')}"]
    if isinstance(line.get("loss"), int | float):
        parts.append(f"loss {line['loss']:.4f}")
    if isinstance(line.get("tokens_per_second"), int | float):
        parts.append(f"{line['tokens_per_second']:,.0f} tokens/s")
    left = seconds_left(line)
    if left is not None:
        parts.append(f"{clock(left)} left")
    return "  ".join(parts)


def state_text(event: dict[str, Any]) -> str:
    """A state in words: `failed: ended with exit code 42`, `failed (out of memory): above 4 GiB`."""
    state = str(event["state"]).lower().replace("_", " ")
    cause, message = event.get("cause"), event.get("message")
    if state == "succeeded":
        return state
    if cause == "exit" and message:  # which says the same, and more
        return f"{state}: {message}"
    if cause == "exit":
        return f"{state} (exit code {event.get('exit_code')})"
    because = f" ({str(cause).replace('_', ' ')})" if cause else ""
    return f"{state}{because}: {message}" if message else f"{state}{because}"


class QuietReporter:
    """Says nothing."""

    def state(self, event: dict[str, Any]) -> None:
        """Nothing."""

    def metrics(self, line: dict[str, Any]) -> None:
        """Nothing."""

    def __enter__(self) -> QuietReporter:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""


class JsonReporter(QuietReporter):
    """One JSON object a line on stdout."""

    def state(self, event: dict[str, Any]) -> None:
        """`{"event": "state", ...}`."""
        click.echo(json_line({"event": "state", **event}))

    def metrics(self, line: dict[str, Any]) -> None:
        """`{"event": "metrics", ...}`."""
        click.echo(json_line({"event": "metrics", **line}))


class LineReporter(QuietReporter):
    """Plain lines on stderr, at most one every few seconds, and always the last."""

    def __init__(self) -> None:
        self._next = 0.0
        self._held: dict[str, Any] | None = None

    def state(self, event: dict[str, Any]) -> None:
        """A line at once."""
        self._flush()
        click.echo(state_text(event), err=True)

    def metrics(self, line: dict[str, Any]) -> None:
        """A line when it is time for one."""
        self._held = line
        if time.monotonic() >= self._next:
            self._flush()

    def _flush(self) -> None:
        if self._held is not None:
            click.echo(metrics_text(self._held), err=True)
            self._held = None
            self._next = time.monotonic() + _SECONDS_BETWEEN_LINES

    def __exit__(self, *_: object) -> None:
        self._flush()


class Display(Protocol):
    """What rich draws on a terminal, over and over."""

    def start(self) -> None:
        """Begin to draw."""

    def stop(self) -> None:
        """Leave what was drawn last."""


def start_whole(display: Display) -> None:
    """Start what is drawn, or leave nothing of it.

    What Ctrl-C leaves half started cannot be stopped: it would keep the cursor, and paint over questions.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        display.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    except BaseException:
        display.stop()
        raise


class BarReporter(QuietReporter):
    """A progress bar: step, loss, tokens/s, time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
        self._progress = Progress(*columns, console=Console(stderr=True), transient=False)
        self._task = self._progress.add_task("waiting", total=None, words="")

    def state(self, event: dict[str, Any]) -> None:
        """The state stands before the bar."""
        self._progress.update(self._task, description=event["state"].lower())
        if event.get("message"):
            self._progress.console.print(state_text(event), markup=False, highlight=False)

    def metrics(self, line: dict[str, Any]) -> None:
        """The bar moves."""
        self._progress.update(
            self._task, completed=line.get("step", 0), total=line.get("max_steps"), words=metrics_text(line)
        )

    def __enter__(self) -> BarReporter:
        start_whole(self._progress)
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
