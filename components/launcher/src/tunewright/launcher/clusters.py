"""The chosen cluster, loaded from its plugin: every fault of its own code is told with the plugin's name."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tunewright.contracts.clusters import Cluster
from tunewright.contracts.errors import BrokenPlugin, TunewrightError
from tunewright.contracts.jobs import JobHandle, JobSpec, SubmissionPlan
from tunewright.contracts.plugins import PluginHost, load_entry
from tunewright.contracts.preflight import Finding
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import JobState, JobStatus


def open_cluster(name: str, host: PluginHost) -> Cluster:
    """The cluster `name`. Raises UnknownPlugin, or BrokenPlugin where its module cannot be imported."""
    info, owner = host.clusters.get(name, "cluster.name"), host.clusters.owner_of(name)
    with _naming(owner, info.entry):
        return GuardedCluster(load_entry(info.entry, owner)(), owner)


class GuardedCluster:
    """A cluster whose own faults name its plugin: the errors of our tree pass, any other becomes BrokenPlugin."""

    def __init__(self, cluster: Cluster, owner: str) -> None:
        self._cluster = cluster
        self._owner = owner

    def check(self) -> Sequence[Finding]:
        """The cluster's own findings."""
        with _naming(self._owner, "check"):
            return tuple(self._cluster.check())

    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        """The cluster's own plan."""
        with _naming(self._owner, "plan"):
            plan = self._cluster.plan(job, options)
            if not isinstance(plan, SubmissionPlan):
                raise TypeError(f"gave {type(plan).__name__}, must give SubmissionPlan")
            return plan

    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        """The cluster's own handle."""
        with _naming(self._owner, "submit"):
            handle = self._cluster.submit(plan, key)
            if not isinstance(handle, JobHandle):
                raise TypeError(f"gave {type(handle).__name__}, must give JobHandle")
            return handle

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """The cluster's own answer. A handle it left out is UNKNOWN."""
        with _naming(self._owner, "status"):
            known = dict(self._cluster.status(handles))
        silent = JobStatus(state=JobState.UNKNOWN, message="the cluster said nothing about this job")
        return {handle: known.get(handle, silent) for handle in handles}

    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        """The cluster's own bytes."""
        with _naming(self._owner, "logs"):
            yield from self._cluster.logs(handle, replica=replica, follow=follow, since=since)

    def stop(self, handle: JobHandle) -> None:
        """The cluster's own stop."""
        with _naming(self._owner, "stop"):
            self._cluster.stop(handle)


@contextmanager
def _naming(owner: str, verb: str) -> Iterator[None]:
    try:
        yield
    except TunewrightError:
        raise
    except Exception as error:  # whatever a plugin raises is the plugin's fault, and must name it
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        raise BrokenPlugin(f"plugin {owner} failed in {verb}: {type(error).__name__}: {error} ({place})") from error
