"""What became of runs: one question to each cluster, the answer kept in the runs' events."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pydantic import ValidationError

from tunewright.contracts.clusters import Cluster
from tunewright.contracts.errors import TunewrightError
from tunewright.contracts.jobs import JobHandle
from tunewright.contracts.plugins import PluginHost
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.status import JobState, JobStatus
from tunewright.launcher.clusters import open_cluster
from tunewright.launcher.events import has_ended, record_event
from tunewright.launcher.finish import finish_run
from tunewright.launcher.run_store import cluster_name_of, go_on_words, last_line, read_handle, read_json

WAITING = "waits to be started"
"""What the events say of a run that was made ready and not sent."""


def cluster_of(run: RunDir, host: PluginHost) -> Cluster:
    """The cluster the run was planned for. Raises UnknownPlugin where its plugin is not installed any more."""
    return open_cluster(cluster_name_of(run), host)


def status_of(run: RunDir, cluster: Cluster) -> JobStatus:
    """The run's state now, kept in its events. PENDING before the cluster has confirmed it."""
    handle = read_handle(run)
    return unsent_status(run) if handle is None else settled(run, cluster.status([handle])[handle])


def settled(run: RunDir, status: JobStatus) -> JobStatus:
    """`status`, kept in the run's events. Where the cluster has forgotten a job, its record still knows the end."""
    if status.state is JobState.NOT_FOUND:
        status = _recorded_outcome(run) or status
    record_event(run, status)
    return status


def _recorded_outcome(run: RunDir) -> JobStatus | None:
    try:
        return JobStatus.model_validate(read_json(run.provenance).get("outcome"))
    except ValidationError:
        return None


def unsent_status(run: RunDir) -> JobStatus:
    """Of a run whose job no cluster has: it may have come to its end before it was sent."""
    if has_ended(last := last_line(run.events)):
        return JobStatus.model_validate({key: last[key] for key in JobStatus.model_fields.keys() & last.keys()})
    if last.get("message") == WAITING or not last:
        return JobStatus(state=JobState.PENDING, message=f"waits to be started; {go_on_words(run)} goes on with it")
    message = f"the cluster has not confirmed the job; {go_on_words(run)} goes on with it"
    return JobStatus(state=JobState.PENDING, message=message)


def states_of(runs: Sequence[RunDir], host: PluginHost) -> list[JobStatus]:
    """The state of each run. One whose cluster cannot be asked, or whose files are broken, is UNKNOWN and says why.

    A run that has its record needs no cluster to tell how it ended.
    """
    states: dict[str, JobStatus] = {}
    asked: dict[str, dict[RunDir, JobHandle]] = defaultdict(dict)
    for run in runs:
        try:
            handle = read_handle(run)
            if handle is None:
                states[run.name] = unsent_status(run)
            else:
                asked[cluster_name_of(run)][run] = handle
        except TunewrightError as error:
            states[run.name] = _unknown(error)
    for name, handles in asked.items():
        answers = _ask(name, list(handles.values()), host)
        states |= {run.name: _end_or(answers[handle], run) for run, handle in handles.items()}
    return [_kept(run, states[run.name], host) for run in runs]


def _ask(name: str, handles: list[JobHandle], host: PluginHost) -> dict[JobHandle, JobStatus]:
    try:
        return dict(open_cluster(name, host).status(handles))
    except TunewrightError as error:
        return dict.fromkeys(handles, _unknown(error))


def _end_or(status: JobStatus, run: RunDir) -> JobStatus:
    """`status`; where the cluster cannot tell, the end that the run's record tells, if there is one."""
    return (_recorded_outcome(run) or status) if status.state is JobState.UNKNOWN else status


def _unknown(error: TunewrightError) -> JobStatus:
    return JobStatus(state=JobState.UNKNOWN, message=error.message)


def _kept(run: RunDir, status: JobStatus, host: PluginHost) -> JobStatus:
    if status.state in (JobState.UNKNOWN, JobState.PENDING):  # nothing the cluster has said
        return status
    status = settled(run, status)
    finish_run(run, status, host)
    return status
