"""What the tests of cluster `kubernetes` share: jobs of small programs, and what the server has of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from servers.docker_engine import BASE_IMAGE
from servers.kubernetes_api.server import KubernetesServer

from tunewright.clusters.kubernetes.backend import KubernetesCluster
from tunewright.clusters.kubernetes.options import KubernetesOptions
from tunewright.clusters.kubernetes.place import from_handle
from tunewright.contracts.jobs import JobHandle, JobSpec, Resources, SubmissionPlan
from tunewright.contracts.status import JobStatus

SLEEP = "import time; print('up', flush=True); time.sleep(600)"


class Jobs:
    """Jobs of one test."""

    def __init__(self, server: KubernetesServer, kubeconfig: Path, home: Path) -> None:
        self.server = server
        self.kubeconfig = kubeconfig
        self.home = home
        self.cluster = KubernetesCluster()
        self.submitted: list[JobHandle] = []

    def job(self, script: str, *arguments: str, nodes: int = 1, **fields: Any) -> JobSpec:
        """A job of the image's Python."""
        run = f"run-{len(list(self.home.glob('runs/*')))}"
        (self.home / "runs" / run).mkdir(parents=True)
        command = ("python3", "-c", script, *arguments)
        fields = {"command": command, "resources": Resources(nodes=nodes), **fields}
        return JobSpec(run=run, run_dir=str(self.home / "runs" / run), **fields)

    def plan(self, job: JobSpec, **options: Any) -> SubmissionPlan:
        """Its plan."""
        own = {"image": BASE_IMAGE, "kubeconfig": str(self.kubeconfig), "mounts": (f"{self.home}:{self.home}",)}
        return self.cluster.plan(job, KubernetesOptions(**{**own, "stop_grace_seconds": 2, **options}))

    def submit(self, job: JobSpec, key: str | None = None, **options: Any) -> JobHandle:
        """Submit it under its run's name."""
        handle = self.cluster.submit(self.plan(job, **options), key or job.run)
        self.submitted.append(handle)
        return handle

    def run(self, script: str, *arguments: str, **fields: Any) -> JobHandle:
        """Submit a job of `script`."""
        return self.submit(self.job(script, *arguments, **fields))

    def status(self, handle: JobHandle) -> JobStatus:
        """Its status now."""
        return self.cluster.status([handle])[handle]

    def wait(self, handle: JobHandle) -> JobStatus:
        """Its last status."""
        eventually(lambda: self.status(handle).state.is_terminal, lambda: self.status(handle))
        return self.status(handle)

    def log(self, handle: JobHandle, replica: int = 0, since: int = 0) -> bytes:
        """What it wrote."""
        return b"".join(self.cluster.logs(handle, replica, since=since))

    def wait_for(self, handle: JobHandle, text: bytes, replica: int = 0) -> None:
        """Until the log has `text` in it."""
        eventually(lambda: text in self.log(handle, replica), lambda: (self.status(handle), self.log(handle, replica)))

    def name(self, handle: JobHandle) -> str:
        """What its objects are called."""
        place = from_handle(handle)
        assert place is not None
        return place.name

    def pods(self, handle: JobHandle) -> list[dict[str, Any]]:
        """Its pods, as the server has them."""
        return self.server.pods_of(self.name(handle))

    def close(self) -> None:
        """Stop whatever runs."""
        for handle in self.submitted:
            self.cluster.stop(handle)


def eventually(is_so: Callable[[], object], what: Callable[[], object] = lambda: "", seconds: float = 50) -> None:
    """Wait until `is_so` is true."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not so after {seconds} seconds: {what()}"
        time.sleep(0.05)
