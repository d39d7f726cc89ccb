"""Cluster `slurm` does what every cluster must, on a real Slurm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from servers.slurm_cluster import SlurmCluster

from conformance.cluster_bench import Bench, opened
from conformance.cluster_suite import ClusterConformance
from tunewright.clusters.slurm import plugin


class TestSlurm(ClusterConformance):
    plugin = plugin
    name = "slurm"
    memory_options: ClassVar = {"memory_gib": 0.125}

    @pytest.fixture
    def bench(self, tmp_path: Path, slurm: SlurmCluster) -> Iterator[Bench]:
        with opened(self.make_bench(tmp_path)) as bench:
            yield bench
