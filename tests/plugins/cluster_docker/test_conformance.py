"""Cluster `docker` does what every cluster must."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from servers.docker_engine import BASE_IMAGE, need_base_image

from conformance.cluster_bench import Bench
from conformance.cluster_suite import ClusterConformance
from tunewright.clusters.docker import plugin


class TestDocker(ClusterConformance):
    plugin = plugin
    name = "docker"
    python = ("python3.11",)
    options: ClassVar = {"image": BASE_IMAGE}
    memory_options: ClassVar = {"memory_gib": 0.125}
    time_limit_options: ClassVar = {"time_limit_seconds": 1}

    def make_bench(self, tmp_path: Path) -> Bench:
        need_base_image()
        return super().make_bench(tmp_path)
