"""The states of many runs, with one question to each cluster."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from tunewright.contracts.clusters import Cluster
from tunewright.contracts.errors import TunewrightError
from tunewright.contracts.jobs import JobHandle
from tunewright.contracts.plugins import PluginHost, load_entry
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobState, JobStatus
from tunewright.launcher.events import record_event
from tunewright.launcher.finish import finish_run
from tunewright.launcher.run_store import read_handle


def states_of(runs: Sequence[RunDir], host: PluginHost) -> list[JobStatus]:
    """The state of each run. A cluster that cannot be asked makes its runs UNKNOWN, and says why."""
    handles = [read_handle(run) for run in runs]
    by_cluster: dict[str, list[JobHandle]] = defaultdict(list)
    for handle in handles:
        if handle is not None:
            by_cluster[handle.cluster].append(handle)
    known: dict[JobHandle, JobStatus] = {}
    for name, asked in by_cluster.items():
        known |= _ask(name, asked, host)
    states = [known[handle] if handle else JobStatus(state=JobState.PENDING) for handle in handles]
    for run, handle, status in zip(runs, handles, states, strict=True):
        if handle is not None and status.state is not JobState.UNKNOWN:
            record_event(run, status)
            finish_run(run, status, host)
    return states


def _ask(name: str, handles: list[JobHandle], host: PluginHost) -> dict[JobHandle, JobStatus]:
    try:
        cluster: Cluster = load_entry(host.clusters.get(name).entry, host.clusters.owner_of(name))()
        return dict(cluster.status(handles))
    except TunewrightError as error:
        return {handle: JobStatus(state=JobState.UNKNOWN, message=error.message) for handle in handles}
