"""Runs that belong together, brought to their end: each started when it may, all of them followed as one."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from tunewright.contracts.errors import RunStopped, SubmissionRefused, Unavailable
from tunewright.contracts.file_locks import is_held
from tunewright.contracts.status import CauseKind, JobState, JobStatus
from tunewright.contracts.timestamps import utc_now
from tunewright.launcher.batch import Batch, Member, decide
from tunewright.launcher.batch_progress import BatchReporter
from tunewright.launcher.events import event_of, record_event
from tunewright.launcher.finish import finish_run
from tunewright.launcher.follow import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, UNREACHABLE_SECONDS, MetricsTail
from tunewright.launcher.run_store import cluster_name_of
from tunewright.launcher.submit import submit_run
from tunewright.launcher.watch import Watch

_LOOK_SECONDS = 0.2
_PAUSE_GROWTH = 1.5
_RUNS_PER_PAUSE_SECOND = 100
"""A question about so many runs may be asked each second at most: a thousand are asked about every ten seconds."""

_NOBODY_SECONDS = 10.0
_TURN_FILE = ".turn.lock"


class Turn:
    """Who starts a batch's runs: one process at a time, whoever holds its lock. It ends with the process."""

    def __init__(self, batch: Batch) -> None:
        self._path = batch.directory / _TURN_FILE
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Whether it is ours, now or already."""
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def give_back(self) -> None:
        """Let another process start the rest."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def turn_of(batch: Batch) -> Iterator[Turn]:
    """The turn, given back at the end where it was taken."""
    turn = Turn(batch)
    try:
        yield turn
    finally:
        turn.give_back()


def is_somebodys_turn(directory: Path) -> bool:
    """Whether a process lives that starts the batch's runs."""
    return is_held(directory / _TURN_FILE)


def start_ready(watch: Watch, statuses: Mapping[str, JobStatus]) -> bool:
    """Start what may start now, and end what never can. Gives whether anything was done.

    Raises SubmissionRefused where the cluster will not have a job, and Unavailable where it cannot be reached.
    """
    batch = watch.batch
    decision = decide(batch.members, statuses, frozenset(watch.handles), batch.at_most)
    for run, because in decision.blocked.items():
        message = f"run {because}, which it starts after, has not succeeded"
        status = JobStatus(state=JobState.STOPPED, cause=CauseKind.DEPENDENCY, message=message)
        record_event(batch.run_dir(run), status)
        finish_run(batch.run_dir(run), status, watch.host)
    for run in decision.start:
        directory = batch.run_dir(run)
        submit_run(directory, watch.cluster(cluster_name_of(directory)), watch.host)
    return bool(decision.start or decision.blocked)


def start_all_ready(watch: Watch) -> dict[str, JobStatus]:
    """Start everything that may start now; give the states after it."""
    while start_ready(watch, statuses := watch.look()):
        pass
    return statuses


def has_ended(statuses: Mapping[str, JobStatus]) -> bool:
    """Whether every run has come to its end."""
    return all(status.state.is_terminal for status in statuses.values())


def drive(
    watch: Watch, reporter: BatchReporter, turn: Turn | None = None, timeout_seconds: float | None = None
) -> dict[str, JobStatus]:
    """Report until every run has ended; give their last states. With a `turn`, start those that wait, as they may.

    While another process has the turn, it starts them, and we only look on; should it die, we go on in its place.
    Raises RunStopped when `timeout_seconds` are over first, and where runs wait that nobody would start.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    show, rhythm = _Show(watch.batch, reporter), _Rhythm(len(watch.batch.members))
    patience = _Patience()
    with reporter:
        while True:
            if rhythm.is_time():
                statuses = watch.look()
                rhythm.looked(show.tell(statuses, watch.handles))
                if has_ended(statuses):
                    return statuses
                if turn is not None and turn.take():
                    if patience.with_cluster(watch, statuses):
                        rhythm.hurry()
                        continue
                elif turn is None:
                    patience.with_nobody(watch, statuses)
            show.steps()
            if deadline is not None and time.monotonic() > deadline:
                words = f"{watch.batch.name}: has not ended within {timeout_seconds:g} seconds; it goes on"
                raise RunStopped(words)
            time.sleep(_LOOK_SECONDS)


class _Patience:
    """How long a cluster may be away, and how long runs may wait with nobody there to start them."""

    def __init__(self) -> None:
        self._reached = self._somebody = time.monotonic()

    def with_cluster(self, watch: Watch, statuses: Mapping[str, JobStatus]) -> bool:
        """Start what may start. A cluster that is away for a while is asked again later."""
        try:
            started = start_ready(watch, statuses)
        except SubmissionRefused:
            raise
        except Unavailable as error:
            if time.monotonic() - self._reached > UNREACHABLE_SECONDS:
                raise
            click.echo(f"warning: {error.message}; asked again soon", err=True)
            return False
        self._reached = time.monotonic()
        return started

    def with_nobody(self, watch: Watch, statuses: Mapping[str, JobStatus]) -> None:
        """Raise RunStopped where only runs are left that nobody starts."""
        unsent = [run for run, status in statuses.items() if run not in watch.handles and not status.state.is_terminal]
        runs = [run for run in watch.handles if not statuses[run].state.is_terminal]
        now, batch = time.monotonic(), watch.batch
        if not unsent or runs or is_somebodys_turn(batch.directory):
            self._somebody = now
        elif now - self._somebody > _NOBODY_SECONDS:
            command = "sweep" if batch.kind == "sweep" else "launch"
            hint = f"the same `{command}` with --name {batch.name} goes on with them"
            raise RunStopped(f"{batch.name}: {len(unsent)} run(s) wait, and nobody is there to start them", hint)


class _Rhythm:
    """When to ask the clusters: soon after a change, then ever more seldom, and more seldom the more runs there are."""

    def __init__(self, count: int) -> None:
        self._shortest = max(FIRST_PAUSE_SECONDS, count / _RUNS_PER_PAUSE_SECOND / 5)
        self._longest = max(LONGEST_PAUSE_SECONDS, count / _RUNS_PER_PAUSE_SECOND)
        self._pause = 0.0
        self._looked = time.monotonic()

    def is_time(self) -> bool:
        """Whether to ask now."""
        return time.monotonic() >= self._looked + self._pause

    def looked(self, has_changed: bool) -> None:
        """They were asked."""
        self._looked = time.monotonic()
        self._pause = self._shortest if has_changed else min(self._pause * _PAUSE_GROWTH, self._longest)

    def hurry(self) -> None:
        """Something was started: what became of it is asked for soon."""
        self._pause = 0.0


class _Show:
    """Tells a reporter what is new. A run's last steps come before its end."""

    def __init__(self, batch: Batch, reporter: BatchReporter) -> None:
        self._members = batch.members
        self._reporter = reporter
        self._tails = {member.run: MetricsTail(batch.run_dir(member.run).metrics) for member in batch.members}
        self._shown: dict[str, dict[str, object]] = {}
        self._active: list[Member] = []

    def tell(self, statuses: Mapping[str, JobStatus], sent: Container[str]) -> bool:
        """Report what has changed, of runs that were sent or have ended. Gives whether anything has."""
        has_changed = False
        for member in self._members:
            status, before = statuses[member.run], self._shown.get(member.run)
            event = event_of(status)
            if event == before or not (member.run in sent or status.state.is_terminal):
                continue
            has_changed = True
            if before is not None or not status.state.is_terminal:
                self._tell_steps(member)
            self._reporter.state(member, {"time": utc_now(), **event})
            self._shown[member.run] = event
        self._active = [member for member in self._members if not statuses[member.run].state.is_terminal]
        return has_changed

    def steps(self) -> None:
        """Report the steps that were logged since."""
        for member in self._active:
            self._tell_steps(member)

    def _tell_steps(self, member: Member) -> None:
        for line in self._tails[member.run].new_lines():
            self._reporter.metrics(member, line)
