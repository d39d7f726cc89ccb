"""Fixtures of cluster `kubernetes`: one API server for the whole folder; no job outlives its test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.docker_engine import need_base_image
from servers.kubernetes_api.server import KubernetesServer, serve_kubernetes

from plugins.cluster_kubernetes.kubernetes_jobs import Jobs


@pytest.fixture(scope="session")
def server() -> Iterator[KubernetesServer]:
    """The stand-in for a cluster."""
    need_base_image()
    with serve_kubernetes() as server:
        yield server


@pytest.fixture(scope="session")
def kubeconfig(server: KubernetesServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """How clients find it."""
    return server.write_kubeconfig(tmp_path_factory.mktemp("kubernetes") / "config")


@pytest.fixture
def jobs(server: KubernetesServer, kubeconfig: Path, tmp_path: Path) -> Iterator[Jobs]:
    """Jobs below a home of their own; they are stopped at the end."""
    jobs = Jobs(server, kubeconfig, tmp_path)
    yield jobs
    jobs.close()
