"""Cluster `local` does what every cluster must."""

from __future__ import annotations

from typing import ClassVar

from conformance.cluster_suite import ClusterConformance
from tunewright.clusters.local import plugin


class TestLocal(ClusterConformance):
    plugin = plugin
    name = "local"
    memory_options: ClassVar = {"memory_gib": 0.125}
    time_limit_options: ClassVar = {"time_limit_seconds": 0.5}
