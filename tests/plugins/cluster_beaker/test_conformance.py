"""Cluster `beaker` does what every cluster must, on an emulator of Beaker that runs jobs for real."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from servers.beaker_emulator import beaker_client

from conformance.cluster_bench import Bench
from conformance.cluster_suite import ClusterConformance
from plugins.cluster_beaker.beaker_jobs import WORKSPACE, emulated
from tunewright.beaker_emulator.starting import RunningEmulator
from tunewright.clusters.beaker import plugin

pytestmark = pytest.mark.timeout(120)

BEAKERS_VARIABLES = frozenset(
    f"BEAKER_{name}"
    for name in (
        "ASSIGNED_CPU_COUNT", "ASSIGNED_GPU_COUNT", "EXPERIMENT_ID", "JOB_ID", "JOB_KIND", "NODE_HOSTNAME", "NODE_ID",
        "RESULT_DATASET_ID", "TASK_ID", "USER_ID", "WORKLOAD_ID", "WORKSPACE_ID",
    )
)  # fmt: skip
"""What Beaker tells each job of itself; tools inside look for them."""


class TestBeaker(ClusterConformance):
    plugin = plugin
    name = "beaker"
    memory_options: ClassVar = {"memory_gib": 0.25}
    time_limit_options: ClassVar = {"time_limit_seconds": 1}
    own_variables = ClusterConformance.own_variables | BEAKERS_VARIABLES

    @pytest.fixture(autouse=True)
    def running(self, emulator: RunningEmulator) -> None:
        self.emulator = emulator

    def make_bench(self, tmp_path: Path) -> Bench:
        return Bench(self.plugin, self.name, tmp_path, self.python, emulated(tmp_path), self.patience_seconds)

    def give_secret(self, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
        """Into Beaker's workspace: no value passes through the client of a submission."""
        with beaker_client(self.emulator) as client:
            client.secret.write(name, value, workspace=client.workspace.get(WORKSPACE))
