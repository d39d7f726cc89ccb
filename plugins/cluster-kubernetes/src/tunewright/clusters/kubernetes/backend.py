"""Cluster `kubernetes`: joins what is planned, what is asked of the server, and what its answers mean."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tunewright.clusters.kubernetes.options import KubernetesOptions
from tunewright.clusters.kubernetes.place import Place, Server, from_handle
from tunewright.clusters.kubernetes.plan import plan_objects
from tunewright.clusters.kubernetes.rendering import KUEUE_LABEL
from tunewright.clusters.kubernetes.states import STOP_ANNOTATION, has_been_stopped, is_over, is_suspended, read_status
from tunewright.contracts.errors import InvalidExperiment, Unavailable
from tunewright.contracts.jobs import JobHandle, JobSpec, SubmissionPlan
from tunewright.contracts.preflight import Finding
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import JobState, JobStatus

if TYPE_CHECKING:
    from tunewright.clusters.kubernetes.api import Api


class KubernetesCluster:
    """See `tunewright.contracts.clusters.Cluster` for what each verb promises."""

    def __init__(self) -> None:
        self._apis: dict[Server, Api] = {}

    def check(self) -> Sequence[Finding]:
        """Whether the client is installed and knows of a cluster. No socket: the server itself is not asked."""
        import os
        from importlib.util import find_spec

        from tunewright.clusters.kubernetes.api import has_kubeconfig

        if find_spec("kubernetes") is None:
            message = "the Python package `kubernetes` is not installed"
            return (Finding(code="kubernetes-client-missing", message=message, hint="pip install kubernetes"),)
        if not has_kubeconfig(None) and "KUBERNETES_SERVICE_HOST" not in os.environ:
            message = "there is no kubeconfig: neither $KUBECONFIG nor ~/.kube/config"
            hint = "get one from who runs the cluster, or name it in cluster.options.kubeconfig"
            return (Finding(code="kubernetes-kubeconfig-missing", message=message, hint=hint),)
        return ()

    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        """The objects, and what the client needs to find them again."""
        assert isinstance(options, KubernetesOptions)
        return plan_objects(job, options)

    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        """Make the objects. Their name follows from the key: whoever comes second finds them."""
        from tunewright.clusters.kubernetes.submission import place_of, send

        place = place_of(plan, key)
        send(self._api(place.server), plan, place, key)
        return place.to_handle()

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """One call for the jobs and one for the pods of each server, namespace and rendering."""
        told = {
            handle: JobStatus(state=JobState.NOT_FOUND, message=f"no job `{handle.native_id}`") for handle in handles
        }
        groups: dict[tuple[Server, str], dict[str, JobHandle]] = defaultdict(dict)
        for handle in handles:
            if place := from_handle(handle):
                groups[place.server, place.render][place.name] = handle
        for (server, render), named in groups.items():
            told |= self._status_of(server, render, named)
        return told

    def _status_of(self, server: Server, render: str, named: Mapping[str, JobHandle]) -> dict[JobHandle, JobStatus]:
        try:
            api, names = self._api(server), list(named)
            jobs = {job["metadata"]["name"]: job for job in api.list_jobs(render, names)}
            pods = _by_job(api.list_pods(names)) if jobs else {}
        except Unavailable as error:
            return {handle: JobStatus(state=JobState.UNKNOWN, message=error.message) for handle in named.values()}
        return {handle: read_status(jobs[name], pods.get(name, ())) for name, handle in named.items() if name in jobs}

    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        """What node `replica` wrote, output and errors in order, over all attempts."""
        from tunewright.clusters.kubernetes.logs import pieces

        place = from_handle(handle)
        if place is None:
            return iter(())
        if not 0 <= replica < place.nodes:
            allowed = "only 0 is allowed" if place.nodes == 1 else f"0 to {place.nodes - 1} are allowed"
            raise InvalidExperiment(f"--replica {replica}: the job has {place.nodes} node(s); {allowed}")
        return pieces(self._api(place.server), place, replica, follow, since)

    def stop(self, handle: JobHandle) -> None:
        """Note on the job's object that it was asked for, and end it in the same change.

        It is not deleted: `status` could not tell a stopped job from one that never was.
        """
        place = from_handle(handle)
        if place is None:
            return
        api = self._api(place.server)
        job = api.get(place.render, place.name)
        if job is not None and not is_over(job) and not (has_been_stopped(job) and place.render == "job"):
            api.patch(place.render, place.name, _change_that_stops(job, place))

    def _api(self, server: Server) -> Api:
        from tunewright.clusters.kubernetes.api import Api

        if server not in self._apis:
            self._apis[server] = Api(server)
        return self._apis[server]


def _change_that_stops(job: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """A running Job gets a deadline that is over: it ends for good, whoever may suspend and resume it.

    What is suspended, or has no deadline, is suspended, and leaves its queue, which would let it go on.
    """
    asked_at = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    metadata: dict[str, Any] = {"annotations": {STOP_ANNOTATION: asked_at}}
    if place.render == "job" and not is_suspended(job):
        return {"metadata": metadata, "spec": {"activeDeadlineSeconds": 1}}
    if is_suspended(job):
        metadata["labels"] = {KUEUE_LABEL: None}
    return {"metadata": metadata, "spec": {"suspend": True}}


def _by_job(pods: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    from tunewright.clusters.kubernetes.names import LABEL

    found: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for pod in pods:
        found[pod["metadata"].get("labels", {}).get(f"{LABEL}/name", "")].append(pod)
    return found
