"""The chosen cluster, loaded from its plugin: every fault of its own code is told with the plugin's name."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tunewright.contracts.clusters import ArrayCluster, Cluster, DependsCluster, PageCluster
from tunewright.contracts.errors import BrokenPlugin, TunewrightError
from tunewright.contracts.jobs import JobHandle, JobSpec, SubmissionPlan
from tunewright.contracts.plugins import PluginHost, load_entry
from tunewright.contracts.preflight import Finding
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import JobState, JobStatus


def open_cluster(name: str, host: PluginHost) -> GuardedCluster:
    """The cluster `name`. Raises UnknownPlugin, or BrokenPlugin where its module cannot be imported."""
    info, owner = host.clusters.get(name, "cluster.name"), host.clusters.owner_of(name)
    with _naming(owner, info.entry):
        return GuardedCluster(load_entry(info.entry, owner)(), owner)


class GuardedCluster:
    """A cluster whose own faults name its plugin: the errors of our tree pass, any other becomes BrokenPlugin."""

    def __init__(self, cluster: Cluster, owner: str) -> None:
        self._cluster = cluster
        self._owner = owner
        self._findings: tuple[Finding, ...] | None = None

    def check(self) -> Sequence[Finding]:
        """The cluster's own findings, asked for once: every point of a sweep has them."""
        if self._findings is None:
            with _naming(self._owner, "check"):
                self._findings = tuple(self._cluster.check())
        return self._findings

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

    def submit_after(self, plan: SubmissionPlan, key: str, after: Sequence[JobHandle]) -> JobHandle:
        """The cluster's own handle. Only for a cluster with `Capability.DEPENDS`."""
        with _naming(self._owner, "submit_after"):
            if not isinstance(self._cluster, DependsCluster):
                raise TypeError("its cluster claims `depends`, and has no submit_after")
            handle = self._cluster.submit_after(plan, key, after)
            if not isinstance(handle, JobHandle):
                raise TypeError(f"gave {type(handle).__name__}, must give JobHandle")
            return handle

    def url(self, handle: JobHandle) -> str | None:
        """The address of the job's page; None where it, or the cluster, has none."""
        if not isinstance(self._cluster, PageCluster):
            return None
        with _naming(self._owner, "url"):
            return self._cluster.url(handle)

    def largest_array(self, options: Spec) -> int:
        """The cluster's own bound. Only for a cluster with `Capability.ARRAY`."""
        with _naming(self._owner, "largest_array"):
            return max(1, int(self._array_cluster().largest_array(options)))

    def plan_array(self, jobs: Sequence[JobSpec], options: Spec, at_most: int | None) -> SubmissionPlan:
        """The cluster's own plan. Only for a cluster with `Capability.ARRAY`."""
        with _naming(self._owner, "plan_array"):
            plan = self._array_cluster().plan_array(jobs, options, at_most)
            if not isinstance(plan, SubmissionPlan):
                raise TypeError(f"gave {type(plan).__name__}, must give SubmissionPlan")
            return plan

    def submit_array(self, plan: SubmissionPlan, key: str) -> Sequence[JobHandle]:
        """The cluster's own handles. Only for a cluster with `Capability.ARRAY`."""
        with _naming(self._owner, "submit_array"):
            handles = tuple(self._array_cluster().submit_array(plan, key))
            if not all(isinstance(handle, JobHandle) for handle in handles):
                raise TypeError("gave something else than JobHandles")
            return handles

    def _array_cluster(self) -> ArrayCluster:
        if not isinstance(self._cluster, ArrayCluster):
            raise TypeError("its cluster claims `array`, and has no largest_array, plan_array and submit_array")
        return self._cluster

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
