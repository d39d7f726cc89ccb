"""Fixtures of cluster `slurm`: a real Slurm of four nodes for all tests of a process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.slurm_cluster import SlurmCluster, serve_slurm

from plugins.cluster_slurm.slurm_jobs import SlurmHome
from tunewright.contracts.jobs import JobHandle

SAYS_SIGNALS = """
import signal, time
signal.signal(signal.SIGUSR1, lambda *_: print("told SIGUSR1", flush=True))
print("up", flush=True)
while True:
    time.sleep(1)
"""


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    """The Slurm, which this process's own clients find too."""
    with serve_slurm() as cluster:
        before = os.environ.get("SLURM_CONF")
        os.environ.update(cluster.variables)
        yield cluster
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


@pytest.fixture
def home(slurm: SlurmCluster, tmp_path: Path) -> Iterator[SlurmHome]:
    """A home for runs; what was started in it is stopped at the end."""
    home = SlurmHome(tmp_path, slurm)
    yield home
    home.stop_all()


@pytest.fixture(scope="session")
def over_its_time(slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> JobHandle:
    """A job that is going to run over its time: Slurm counts in minutes, so it starts before the other tests."""
    home = SlurmHome(tmp_path_factory.mktemp("time"), slurm)
    return home.submit(home.job(SAYS_SIGNALS), time_limit_minutes=1, signal_before_end_seconds=30, nodelist="n1")
