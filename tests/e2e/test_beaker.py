"""An emulated Beaker, by the packaged launcher: runs on one and two nodes that are disturbed, a sweep, a pipeline."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from servers.beaker_emulator import beaker_client, beaker_emulator

from e2e.packaged import LAUNCHER, SHORT, TRAINER, Project, make_project, pex_root
from tunewright.beaker_emulator.starting import RunningEmulator

pytestmark = pytest.mark.timeout(600)

WORKSPACE, CLUSTER, IMAGE = "ai2/testing", "ai2/cpus", "tester/python"
QUICKSTART = ("examples/quickstart.toml", "--cluster", "beaker", *SHORT)
TWO_NODES = ("--set", "cluster.nodes=2")


@pytest.fixture(scope="module")
def beaker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    """An emulator that runs tasks as processes, and knows an image: what is in it does not matter then."""
    with beaker_emulator(tmp_path_factory.mktemp("beaker")) as running:
        with beaker_client(running) as client:
            workspace = client.workspace.get(WORKSPACE).id
            data = {"workspace": workspace, "imageId": f"sha256:{'0' * 64}", "imageTag": "python"}
            image = client.image.http_request("images", method="POST", query={"name": "python"}, data=data).json()
            client.image.http_request(f"images/{image['id']}", method="PATCH", data={"commit": True})
        yield running


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose PEX has a place, which can be mounted."""
    return make_project(tmp_path_factory.mktemp("mounted"), reference=str(TRAINER))


@pytest.fixture(scope="module")
def two_nodes(beaker: RunningEmulator, mounted: Project) -> dict[str, bytes]:
    """The model of two nodes that nothing disturbs."""
    launched = mounted.launch(*QUICKSTART, *TWO_NODES, *options(mounted), "--name", "beaker-two")
    assert (launched["state"], launched["exit_code"]) == ("SUCCEEDED", 0)
    return mounted.model_bytes("beaker-two")


def options(project: Project) -> list[str]:
    """`--set` of what the emulator has. A task sees what is mounted: the project, its runs, the trainer's PEX."""
    places = [str(project.home.parent), str(TRAINER.parent), pex_root()]
    values = {
        "clusters": json.dumps([CLUSTER]), "workspace": WORKSPACE, "image": IMAGE, "gpus": "0",
        "mounts": json.dumps([f"host:{place}:{place}" for place in places]), "python": sys.executable,
        "result_path": f"{project.home.parent}/results", "min_runtime_seconds": "0",
    }  # fmt: skip
    return [word for name, value in values.items() for word in ("--set", f"cluster.options.{name}={value}")]


def jobs_of(running: RunningEmulator, project: Project, run: str) -> list[Any]:
    """The newest job of each replica, as Beaker tells of it."""
    experiment = json.loads((project.run_dir(run) / "handle.json").read_text())["native_id"]
    with beaker_client(running) as client:
        workload = client.workload.get(experiment)
        found = [client.workload.get_latest_job(workload, task=task) for task in workload.experiment.tasks]
    return [job for job in found if job is not None]


class Followed:
    """A launch in a process of its own, which follows its run while that is disturbed."""

    def __init__(self, project: Project, name: str, *arguments: str) -> None:
        self._project, self._name = project, name
        words = ["launch", *QUICKSTART, *arguments, *options(project), "--name", name, "--json"]
        self._process = project.start(LAUNCHER, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def wait_for_step(self, step: int) -> None:
        """Return once the run has logged `step`; say what the launcher said where it does not."""
        try:
            self._project.wait_for_step(self._name, step, timeout_seconds=120)
        except AssertionError:
            self._process.terminate()
            raise AssertionError(self._process.communicate()) from None

    def end(self) -> dict[str, Any]:
        """Its last document. The run must have succeeded."""
        out, err = self._process.communicate(timeout=300)
        assert self._process.returncode == 0, f"{out}\n{err}"
        document: dict[str, Any] = json.loads(out.splitlines()[-1])
        return document


def test_a_preempted_run_goes_on_to_the_bytes_of_this_machine(
    beaker: RunningEmulator, mounted: Project, project: Project, quickstart: dict[str, Any]
) -> None:
    followed = Followed(mounted, "beaker-preempted")
    followed.wait_for_step(1)
    (job,) = jobs_of(beaker, mounted, "beaker-preempted")
    followed.wait_for_step(4)
    beaker.preempt(job.id)
    assert followed.end()["state"] == "SUCCEEDED"
    assert json.loads(mounted.launcher("status", "beaker-preempted", "--json").stdout)["attempt"] == 1
    assert mounted.resumed_from("beaker-preempted") >= 2
    assert mounted.model_bytes("beaker-preempted") == project.model_bytes("quickstart")


def test_two_nodes_give_a_model_and_a_log_each(mounted: Project, two_nodes: dict[str, bytes]) -> None:
    assert two_nodes
    assert mounted.metrics("beaker-two")[-1]["step"] == 8
    logs = mounted.run_dir("beaker-two") / "logs"
    for replica in (0, 1):
        shown = mounted.launcher("logs", "beaker-two", "--replica", str(replica)).stdout
        assert shown.encode() == (logs / f"replica-{replica}.log").read_bytes()
    assert json.loads((mounted.run_dir("beaker-two") / "training.json").read_text())["num_processes"] == 2


def test_two_nodes_of_which_one_dies_go_on_to_the_bytes_of_two_undisturbed(
    beaker: RunningEmulator, mounted: Project, two_nodes: dict[str, bytes]
) -> None:
    followed = Followed(mounted, "beaker-lost", *TWO_NODES)
    followed.wait_for_step(1)
    nodes = [job.assignment_details.node_id for job in jobs_of(beaker, mounted, "beaker-lost")]
    assert len(set(nodes)) == 2
    followed.wait_for_step(4)
    beaker.lose_node(nodes[1])
    try:
        assert followed.end()["state"] == "SUCCEEDED"
    finally:
        beaker.return_node(nodes[1])
    assert json.loads(mounted.launcher("status", "beaker-lost", "--json").stdout)["attempt"] == 1
    assert nodes[1] not in {job.assignment_details.node_id for job in jobs_of(beaker, mounted, "beaker-lost")}
    assert mounted.resumed_from("beaker-lost") >= 2
    assert mounted.model_bytes("beaker-lost") == two_nodes


def test_a_sweep_of_four_runs_two_at_a_time_and_has_a_table_of_results(
    beaker: RunningEmulator, mounted: Project
) -> None:
    grid = "training.learning_rate=1e-4,3e-4,1e-3,3e-3"
    few = ("--set", "training.max_steps=2", "--at-most", "2", "--grid", grid, "--name", "beaker-sweep")
    swept = json.loads(
        mounted.launcher("sweep", *QUICKSTART, *options(mounted), *few, "--json").stdout.splitlines()[-1]
    )
    assert [(row["state"], row["step"]) for row in swept["runs"]] == [("SUCCEEDED", 2)] * 4
    assert swept["best"] == min(swept["runs"], key=lambda row: row["loss"])["run"]
    table = mounted.launcher("status", "beaker-sweep").stdout.splitlines()
    assert [line.split()[0] for line in table if line.startswith("*")] == ["*"] and len(table) == 5
    spans = [span_of(jobs_of(beaker, mounted, row["run"])[0]) for row in swept["runs"]]
    at_once = [sum(begin <= moment < end for begin, end in spans) for moment, _ in spans]
    assert max(at_once) <= 2, f"more than two ran at a time: {spans}"
    weights = {mounted.model_bytes(row["run"])["model.safetensors"] for row in swept["runs"]}
    assert len(weights) == 4, "two learning rates gave the same weights"


def span_of(job: Any) -> tuple[datetime, datetime]:
    """From when until when it ran, by Beaker."""
    return job.status.started.ToDatetime(), job.status.exited.ToDatetime()


def test_train_export_and_evaluate_are_chained_by_a_waiter(beaker: RunningEmulator, mounted: Project) -> None:
    few = ("--set", "stages.0.training.max_steps=2", "--set", "stages.2.evaluate.max_new_tokens=4")
    chain = ("examples/train-then-evaluate.toml", "--cluster", "beaker", *options(mounted), "--name", "beaker-chain")
    mounted.launcher("launch", *chain, *few, "--detach")
    runs = [mounted.run_dir(f"beaker-chain-{stage}") for stage in ("train", "export", "evaluate")]
    assert [(run / "handle.json").exists() for run in runs] == [True, False, False], "a later stage was sent at once"
    assert (mounted.home / "pipelines" / "beaker-chain" / "waiter.json").is_file()
    waited = json.loads(mounted.launcher("wait", "beaker-chain", "--json").stdout.splitlines()[-1])
    assert [row["state"] for row in waited["runs"]] == ["SUCCEEDED"] * 3
    assert {json.loads((run / "handle.json").read_text())["cluster"] for run in runs} == {"beaker"}
    measured = json.loads((runs[2] / "evaluation.json").read_text())
    assert measured["metrics"]["loss"] > 0 and measured["metrics"]["exact_match"] is not None


def test_a_run_out_of_memory_ends_with_that_as_its_cause(beaker: RunningEmulator, mounted: Project) -> None:
    little = ("--set", "cluster.options.memory_gib=0.125", "--name", "beaker-greedy")
    launched = mounted.launch(*QUICKSTART, *options(mounted), *little, expect=137)
    assert (launched["state"], launched["cause"], launched["exit_code"]) == ("FAILED", "out_of_memory", 137)
    assert "ran out of memory" in launched["message"]
    shown = mounted.launcher("status", "beaker-greedy").stdout.splitlines()
    assert [line.split()[-1] for line in shown if line.startswith(("state", "cause"))] == ["FAILED", "out_of_memory"]
    assert "failed (out of memory)" in mounted.launcher("wait", "beaker-greedy", expect=137).stdout
