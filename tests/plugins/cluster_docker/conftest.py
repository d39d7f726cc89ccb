"""Fixtures of cluster `docker`: no job, container or network outlives its test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.docker_engine import need_base_image

from plugins.cluster_docker.docker_jobs import client, left_in_docker, wait
from tunewright.clusters.docker.backend import DockerCluster
from tunewright.contracts.jobs import JobHandle


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home for runs; what was started in it is stopped at the end, and then nothing of it may be left in Docker."""
    need_base_image()
    yield tmp_path
    try:
        for path in tmp_path.glob("runs/*/docker/*/state.json"):
            handle = JobHandle(cluster="docker", native_id="?", data=str(path.parent))
            DockerCluster().stop(handle)
            wait(handle)
        left = left_in_docker(tmp_path)
        assert not left, f"left in Docker: {left}"
    finally:
        sweep(tmp_path)


def sweep(home: Path) -> None:
    """Remove what a failed test left."""
    for name in left_in_docker(home):
        with client() as docker, contextlib.suppress(Exception):
            docker.containers.get(name).remove(force=True)
        with client() as docker, contextlib.suppress(Exception):
            docker.networks.get(name).remove()
