"""A real Slurm, by the packaged launcher: one node and two, a node that dies, a sweep, a chain, too little memory."""

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
    logs = project.run_dir("slurm-two") / "logs"
    for replica in (0, 1):
        shown = project.launcher("logs", "slurm-two", "--replica", str(replica)).stdout
        assert shown.encode() == (logs / f"replica-{replica}.log").read_bytes()


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
    assert project.resumed_from("slurm-killed") >= 2
    assert project.model_bytes("slurm-killed") == project.model_bytes("quickstart")


def test_a_sweep_of_four_is_one_array_with_a_table_of_results(slurm: SlurmCluster, project: Project) -> None:
    grid = "training.learning_rate=1e-4,3e-4,1e-3,3e-3"
    steps = (*SHORT, "--set", "training.max_steps=2", "--at-most", "2")
    out = project.launcher("sweep", EXAMPLE, *steps, "--grid", grid, "--name", "slurm-sweep", "--json").stdout
    swept = json.loads(out.splitlines()[-1])
    assert [row["state"] for row in swept["runs"]] == ["SUCCEEDED"] * 4
    assert [row["point"]["training.learning_rate"] for row in swept["runs"]] == [1e-4, 3e-4, 1e-3, 3e-3]
    assert swept["best"] in {row["run"] for row in swept["runs"]}
    ids = [json.loads((project.run_dir(row["run"]) / "handle.json").read_text())["native_id"] for row in swept["runs"]]
    assert [one.partition("_")[2] for one in ids] == ["0", "1", "2", "3"], "they are not the jobs of one array"
    assert len({one.partition("_")[0] for one in ids}) == 1, "they are not the jobs of one array"
    weights = {project.model_bytes(row["run"])["model.safetensors"] for row in swept["runs"]}
    assert len(weights) == 4, "two learning rates gave the same weights"


def test_train_export_and_evaluate_are_chained_by_slurm_itself(slurm: SlurmCluster, project: Project) -> None:
    chosen = ("--cluster", "slurm", "--set", "cluster.options.memory_gib=4", "--name", "slurm-chain")
    few = ("--set", "stages.0.training.max_steps=2", "--set", "stages.2.evaluate.max_new_tokens=4")
    project.launcher("launch", "examples/train-then-evaluate.toml", *chosen, *few, "--detach")
    runs = [project.run_dir(f"slurm-chain-{stage}") for stage in ("train", "export", "evaluate")]
    handles = [json.loads((run / "handle.json").read_text()) for run in runs]
    assert [handle["cluster"] for handle in handles] == ["slurm"] * 3, "not all stages were sent at once"
    submitted = [json.loads(next(run.glob("slurm/*/submitted.json")).read_text()) for run in runs]
    assert [one["is_after"] for one in submitted] == [False, True, True], "the later stages wait for nothing"
    waited = json.loads(project.launcher("wait", "slurm-chain", "--json").stdout.splitlines()[-1])
    assert [row["state"] for row in waited["runs"]] == ["SUCCEEDED"] * 3
    measured = json.loads((runs[2] / "evaluation.json").read_text())
    assert measured["metrics"]["loss"] > 0 and measured["metrics"]["exact_match"] is not None


def test_a_run_out_of_memory_ends_with_that_as_its_cause(slurm: SlurmCluster, project: Project) -> None:
    if not slurm.has_memory_limits:
        pytest.skip("no control group can bound a job's memory here")
    little = ("--set", "cluster.options.memory_gib=0.2", "--set", "cluster.max_retries=0", "--name", "slurm-greedy")
    launched = project.launch(EXAMPLE, *SHORT, *little, expect=137)
    assert (launched["state"], launched["cause"], launched["exit_code"]) == ("FAILED", "out_of_memory", 137)
    assert "out of memory on node n" in launched["message"]
    shown = project.launcher("status", "slurm-greedy").stdout.splitlines()
    assert [line.split()[-1] for line in shown if line.startswith(("state", "cause"))] == ["FAILED", "out_of_memory"]
    assert "failed (out of memory)" in project.launcher("wait", "slurm-greedy", expect=137).stdout
