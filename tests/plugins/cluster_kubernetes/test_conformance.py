"""Cluster `kubernetes` does what every cluster must, on a stand-in for Kubernetes whose pods are containers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from servers.docker_engine import BASE_IMAGE
from servers.kubernetes_api.server import KubernetesServer

from conformance.cluster_bench import Bench
from conformance.cluster_suite import ClusterConformance
from tunewright.clusters.kubernetes import plugin
from tunewright.clusters.kubernetes.place import Place, Server
from tunewright.contracts.jobs import JobHandle

pytestmark = pytest.mark.timeout(180)


class TestKubernetes(ClusterConformance):
    plugin = plugin
    name = "kubernetes"
    patience_seconds = 90.0  # each client imports the official one, which takes a second and more
    python = ("python3",)
    memory_options: ClassVar = {"memory_gib": 0.125}
    time_limit_options: ClassVar = {"time_limit_seconds": 1}

    @pytest.fixture(autouse=True)
    def _server(self, server: KubernetesServer, kubeconfig: Path) -> None:
        self.server, self.kubeconfig = server, kubeconfig

    def make_bench(self, tmp_path: Path) -> Bench:
        own = {"image": BASE_IMAGE, "kubeconfig": str(self.kubeconfig), "mounts": [f"{tmp_path}:{tmp_path}"]}
        options = {**own, "stop_grace_seconds": 2}
        return Bench(self.plugin, self.name, tmp_path, self.python, options, self.patience_seconds)

    def give_secret(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
        """A key of the Secret that `cluster.options.secret` names by default."""
        self.server.put_secret("tunewright", {name: value})

    def quick_stop(self, bench: Bench) -> dict[str, Any]:
        """Kubernetes counts whole seconds."""
        return {"stop_grace_seconds": 1}

    def unknown_handle(self, bench: Bench) -> JobHandle:
        """One that the server has to be asked for."""
        place = Place(Server(str(self.kubeconfig), None, "default"), "job", "tw-no-such-job", 1, str(bench.home))
        return place.to_handle()
