"""The quickstart on an emulated Beaker, by the packaged launcher: preempted on the way, to the same bytes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from servers.beaker_emulator import beaker_client, beaker_emulator

from e2e.packaged import LAUNCHER, SHORT, TRAINER, Project, make_project, pex_root
from tunewright.beaker_emulator.starting import RunningEmulator

pytestmark = pytest.mark.timeout(600)

WORKSPACE, CLUSTER, IMAGE = "ai2/testing", "ai2/cpus", "tester/python"


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


def options(project: Project) -> list[str]:
    """`--set` of what the emulator has. A task sees what is mounted: the project, its runs, the trainer's PEX."""
    places = [str(project.home.parent), str(TRAINER.parent), pex_root()]
    values = {
        "clusters": json.dumps([CLUSTER]), "workspace": WORKSPACE, "image": IMAGE, "gpus": "0",
        "mounts": json.dumps([f"host:{place}:{place}" for place in places]), "python": sys.executable,
        "result_path": f"{project.home.parent}/results", "min_runtime_seconds": "0",
    }  # fmt: skip
    return [word for name, value in values.items() for word in ("--set", f"cluster.options.{name}={value}")]


def newest_job(running: RunningEmulator, project: Project, run: str) -> str:
    """Beaker's id of the job that runs now."""
    experiment = json.loads((project.run_dir(run) / "handle.json").read_text())["native_id"]
    with beaker_client(running) as client:
        job = client.workload.get_latest_job(client.workload.get(experiment))
    assert job is not None
    return job.id


def test_a_preempted_run_goes_on_to_the_bytes_of_this_machine(
    beaker: RunningEmulator, mounted: Project, project: Project, quickstart: dict[str, Any]
) -> None:
    arguments = ["launch", "examples/quickstart.toml", "--cluster", "beaker", *options(mounted), *SHORT]
    process = mounted.start(
        LAUNCHER, *arguments, "--name", "beaker-preempted", "--json", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        mounted.wait_for_step("beaker-preempted", 4, timeout_seconds=120)
    except AssertionError:
        process.terminate()
        raise AssertionError(process.communicate()) from None
    beaker.preempt(newest_job(beaker, mounted, "beaker-preempted"))
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, f"{out}\n{err}"
    assert json.loads(mounted.launcher("status", "beaker-preempted", "--json").stdout)["attempt"] == 1
    assert mounted.model_bytes("beaker-preempted") == project.model_bytes("quickstart")
