"""The states of a batch's runs: one question to each cluster for all of them, however many there are."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping

from tunewright.contracts.errors import TunewrightError, Unavailable
from tunewright.contracts.jobs import JobHandle
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.status import JobState, JobStatus
from tunewright.launcher.batch import Batch
from tunewright.launcher.clusters import GuardedCluster, open_cluster
from tunewright.launcher.events import event_of
from tunewright.launcher.finish import finish_run
from tunewright.launcher.follow import UNREACHABLE_SECONDS
from tunewright.launcher.run_store import read_handle
from tunewright.launcher.states import settled, unsent_status

_NOT_MADE = JobStatus(state=JobState.PENDING, message="not made yet")


class Watch:
    """Looks at all runs of a batch. Keeps what has changed in their events, and writes the records of those that ended.

    A cluster that is away for a while leaves its runs as they were last seen.
    """

    def __init__(self, batch: Batch, host: PluginHost) -> None:
        self.batch, self.host = batch, host
        self._clusters: dict[str, GuardedCluster] = {}
        self._handles: dict[str, JobHandle] = {}
        self._seen: dict[str, JobStatus] = {}
        self._reached = time.monotonic()

    def cluster(self, name: str) -> GuardedCluster:
        """The cluster of that name, opened once."""
        if name not in self._clusters:
            self._clusters[name] = open_cluster(name, self.host)
        return self._clusters[name]

    @property
    def handles(self) -> Mapping[str, JobHandle]:
        """By run: those that the clusters had given at the last look."""
        return self._handles

    def look(self) -> dict[str, JobStatus]:
        """The state of every run now. Raises Unavailable where a cluster has been away for ten minutes."""
        asked: dict[str, dict[JobHandle, str]] = defaultdict(dict)
        for member in self.batch.members:
            run, seen = self.batch.run_dir(member.run), self._seen.get(member.run)
            if seen is not None and seen.state.is_terminal:
                continue
            handle = self._handles.get(member.run) or read_handle(run)
            if handle is None:
                self._seen[member.run] = unsent_status(run) if run.path.is_dir() else _NOT_MADE
                continue
            self._handles[member.run] = handle
            asked[handle.cluster][handle] = member.run
        for name, runs in asked.items():
            self._ask(name, runs)
        return dict(self._seen)

    def forget(self, run: str) -> None:
        """Look at this run anew: it is no longer what it was."""
        self._seen.pop(run, None)
        self._handles.pop(run, None)

    def _ask(self, name: str, runs: Mapping[JobHandle, str]) -> None:
        try:
            answers = self.cluster(name).status(list(runs))
        except Unavailable as error:
            if time.monotonic() - self._reached > UNREACHABLE_SECONDS:
                raise
            answers = dict.fromkeys(runs, JobStatus(state=JobState.UNKNOWN, message=error.message))
        else:
            self._reached = time.monotonic()
        for handle, run in runs.items():
            self._take(run, answers[handle])

    def _take(self, run: str, status: JobStatus) -> None:
        seen = self._seen.get(run)
        if status.state is JobState.UNKNOWN and seen is not None:
            return
        if seen is None or event_of(status) != event_of(seen):
            directory = self.batch.run_dir(run)
            status = settled(directory, status) if status.state is not JobState.UNKNOWN else status
            try:
                finish_run(directory, status, self.host)
            except TunewrightError:
                self._seen.pop(run, None)  # its end is told once its record is written
                raise
        self._seen[run] = status
