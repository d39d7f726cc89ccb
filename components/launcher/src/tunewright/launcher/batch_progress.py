"""What a user sees of several runs that are followed together: a table on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import click

from tunewright.launcher.batch import Batch, Member
from tunewright.launcher.progress import json_line, metrics_text, start_whole, state_text

if TYPE_CHECKING:
    from rich.console import RenderableType

_SECONDS_BETWEEN_LINES = 5.0
_ROWS_BESIDE_THE_TABLE = 6
_FIRST_ROWS = ("FAILED", "TIMED_OUT", "STOPPED", "RUNNING", "STARTING", "PREEMPTED", "REQUEUED", "UNKNOWN", "NOT_FOUND")
"""Where not all rows fit, these states come before those that wait and those that have succeeded."""


class BatchReporter(Protocol):
    """Told of each change of state and each logged step of every run. A context manager."""

    def state(self, member: Member, event: dict[str, Any]) -> None:
        """The run has changed its state."""

    def metrics(self, member: Member, line: dict[str, Any]) -> None:
        """A step was logged."""

    def __enter__(self) -> BatchReporter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def batch_reporter_for(batch: Batch, as_json: bool, quiet: bool = False) -> BatchReporter:
    """The reporter that fits where the output goes."""
    if as_json:
        return JsonBatch()
    if quiet:
        return QuietBatch()
    return TableBatch(batch) if sys.stderr.isatty() else LineBatch(batch)


def counts_text(states: Mapping[str, str]) -> str:
    """How many runs are in each state: `1 failed, 2 running, 3 succeeded`."""
    counts = Counter(states.values())
    return ", ".join(f"{count} {state.lower().replace('_', ' ')}" for state, count in sorted(counts.items()))


class QuietBatch:
    """Says nothing."""

    def state(self, member: Member, event: dict[str, Any]) -> None:
        """Nothing."""

    def metrics(self, member: Member, line: dict[str, Any]) -> None:
        """Nothing."""

    def __enter__(self) -> QuietBatch:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""


class JsonBatch(QuietBatch):
    """One JSON object a line on stdout, each with its run."""

    def state(self, member: Member, event: dict[str, Any]) -> None:
        """`{"event": "state", "run": ..., ...}`."""
        click.echo(json_line({"event": "state", "run": member.run, **_place(member), **event}))

    def metrics(self, member: Member, line: dict[str, Any]) -> None:
        """`{"event": "metrics", "run": ..., ...}`."""
        click.echo(json_line({"event": "metrics", "run": member.run, **line}))


def _place(member: Member) -> dict[str, Any]:
    return {"stage": member.stage} if member.stage is not None else {"point": dict(member.point)}


class LineBatch(QuietBatch):
    """Plain lines on stderr: every change of state, and now and then the newest step of each run that has one."""

    def __init__(self, batch: Batch, say: Callable[[str], None] | None = None) -> None:
        self._count = len(batch.members)
        self._say = say or (lambda line: click.echo(line, err=True))
        self._states: dict[str, str] = {}
        self._held: dict[str, str] = {}
        self._next = 0.0

    def state(self, member: Member, event: dict[str, Any]) -> None:
        """A line at once."""
        self._states[member.run] = event["state"]
        if member.run in self._held:
            self._say(self._held.pop(member.run))
        self._say(f"{member.run} ({member.label}): {state_text(event)}")

    def metrics(self, member: Member, line: dict[str, Any]) -> None:
        """Lines when it is time for some: the more runs there are, the more seldom."""
        self._held[member.run] = f"{member.run}: {metrics_text(line)}"
        if time.monotonic() >= self._next:
            self._flush()

    def _flush(self) -> None:
        for line in self._held.values():
            self._say(line)
        if self._count > 1 and self._held:
            self._say(f"{len(self._states)} of {self._count} runs: {counts_text(self._states)}")
        self._next = time.monotonic() + max(_SECONDS_BETWEEN_LINES, len(self._held))
        self._held.clear()

    def __exit__(self, *_: object) -> None:
        self._flush()


class TableBatch(QuietBatch):
    """A table that changes in place: a row for each run, as many as fit."""

    def __init__(self, batch: Batch) -> None:
        from rich.console import Console
        from rich.live import Live

        self._batch = batch
        self._states = dict.fromkeys((member.run for member in batch.members), "PENDING")
        self._words: dict[str, str] = {}
        self._console = Console(stderr=True)
        self._live = Live(
            console=self._console, get_renderable=self._table, refresh_per_second=4, redirect_stdout=False
        )

    def state(self, member: Member, event: dict[str, Any]) -> None:
        """Its row changes. What a cluster has to say stands in it until there is a step."""
        self._states[member.run] = event["state"]
        if event.get("message"):
            self._words[member.run] = str(event["message"])

    def metrics(self, member: Member, line: dict[str, Any]) -> None:
        """Its row changes."""
        self._words[member.run] = metrics_text(line)

    def _table(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        for title in ("run", "stage" if self._batch.kind == "pipeline" else "point", "state", ""):
            table.add_column(title, no_wrap=True)
        shown = self._shown()
        for member in shown:
            state = self._states[member.run].lower().replace("_", " ")
            table.add_row(*map(Text, (member.run, member.label, state, self._words.get(member.run, ""))))
        left = len(self._batch.members) - len(shown)
        more = f"  ({left} rows are not shown)" if left else ""
        return Group(table, Text(counts_text(self._states) + more))

    def _shown(self) -> list[Member]:
        """As many as fit on the terminal, in the order of the batch."""
        members, room = self._batch.members, max(1, self._console.height - _ROWS_BESIDE_THE_TABLE)
        if len(members) <= room:
            return list(members)
        ranks = {state: rank for rank, state in enumerate(_FIRST_ROWS)}
        ranked = sorted(members, key=lambda member: ranks.get(self._states[member.run], len(ranks)))
        chosen = {member.run for member in ranked[:room]}
        return [member for member in members if member.run in chosen]

    def __enter__(self) -> TableBatch:
        start_whole(self._live)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
