"""Fixtures of cluster `local`: no job outlives its test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from plugins.cluster_local.local_jobs import wait
from tunewright.clusters.local.backend import LocalCluster
from tunewright.contracts.jobs import JobHandle


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home for runs; whatever was started in it is stopped at the end."""
    yield tmp_path
    left = [
        JobHandle(cluster="local", native_id="?", data=str(path.parent))
        for path in tmp_path.glob("runs/*/local/*/lock")
    ]
    for handle in left:
        LocalCluster().stop(handle)
    for handle in left:
        wait(handle)
