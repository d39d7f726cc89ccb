"""The quickstart on a real Slurm, by the packaged launcher: on one node and on two, and with a node that dies."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from servers.slurm_cluster import SlurmCluster, serve_slurm

from e2e.packaged import LAUNCHER, SHORT, Project

pytestmark = pytest.mark.timeout(600)

EXAMPLE = "examples/quickstart-slurm.toml"
NODE_IS_LOST_SECONDS = 120


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    """A Slurm of four nodes, which the launcher finds by SLURM_CONF, as it would on a login node."""
    with serve_slurm() as cluster, pytest.MonkeyPatch.context() as environment:
        for name, value in cluster.variables.items():
            environment.setenv(name, value)
        yield cluster


def test_two_nodes_of_slurm_give_a_model_and_a_log_each(slurm: SlurmCluster, project: Project) -> None:
    launched = project.launch(EXAMPLE, *SHORT, "--set", "cluster.nodes=2", "--name", "slurm-two")
    assert launched["state"] == "SUCCEEDED"
    assert project.metrics("slurm-two")[-1]["step"] == 8
    assert project.model_bytes("slurm-two")
    for replica in (0, 1):
        assert project.launcher("logs", "slurm-two", "--replica", str(replica)).stdout


def test_a_run_whose_node_dies_goes_on_on_another_to_the_same_bytes(
    slurm: SlurmCluster, project: Project, quickstart: dict[str, Any]
) -> None:
    process = project.start(
        LAUNCHER, "launch", EXAMPLE, *SHORT, "--name", "slurm-killed", "--json", stdout=subprocess.PIPE
    )
    project.wait_for_step("slurm-killed", 4)
    (state,) = project.run_dir("slurm-killed").glob("slurm/*/state.json")
    (lost,) = json.loads(state.read_text())["nodes"]
    slurm.kill_node(lost)
    out, _ = process.communicate(timeout=NODE_IS_LOST_SECONDS)
    assert process.returncode == 0
    assert json.loads(out.splitlines()[-1])["state"] == "SUCCEEDED"
    ended = json.loads(state.read_text())
    assert ended["attempt"] == 1
    assert ended["nodes"] != [lost]
    assert project.model_bytes("slurm-killed") == project.model_bytes("quickstart")
