"""Jobs, options and plans that the tests of cluster `beaker` share."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from beaker import Beaker

from tunewright.clusters.beaker.backend import BeakerCluster
from tunewright.clusters.beaker.options import BeakerOptions
from tunewright.clusters.beaker.plan import SPEC_FILE, SUBMISSION_FILE
from tunewright.contracts.jobs import JobHandle, JobSpec, Resources, SubmissionPlan
from tunewright.contracts.status import JobStatus

IMAGE = "python"
"""The image that the emulator has; with its runner for processes, what is in it does not matter."""

WORKSPACE, USER, CLUSTER = "ai2/testing", "tester", "ai2/cpus"
"""What the emulator has from the start."""

RUN_DIR = "/weka/oe-adapt-default/me/runs/sft"


def options(**changes: Any) -> BeakerOptions:
    """Options of a job on Jupiter in a ready image, with changes."""
    return BeakerOptions.model_validate({"clusters": ["ai2/jupiter"], "image": "me/sft", "gpus": 0, **changes})


def job(*command: str, nodes: int = 1, processes: int = 1, **fields: Any) -> JobSpec:
    """A job with its run on Weka."""
    resources = Resources(nodes=nodes, processes_per_node=processes)
    return JobSpec(
        **{"run": "sft", "run_dir": RUN_DIR, "command": command or ("true",), "resources": resources, **fields}
    )


def plan(one: JobSpec, given: BeakerOptions) -> SubmissionPlan:
    """The plan of a job."""
    return BeakerCluster().plan(one, given)


def spec_of(one: JobSpec, given: BeakerOptions) -> dict[str, Any]:
    """The experiment that is planned."""
    spec: dict[str, Any] = json.loads(plan(one, given).text_of(SPEC_FILE))
    return spec


def task_of(one: JobSpec, given: BeakerOptions) -> dict[str, Any]:
    """Its only task."""
    (task,) = spec_of(one, given)["tasks"]
    return dict(task)


def submission_of(one: JobSpec, given: BeakerOptions) -> dict[str, Any]:
    """What the submission is told besides."""
    known: dict[str, Any] = json.loads(plan(one, given).text_of(SUBMISSION_FILE))
    return known


def register_image(client: Beaker, name: str) -> None:
    """Make an image known without sending its layers, as if somebody had sent them before."""
    workspace = client.workspace.get(WORKSPACE).id
    data = {"workspace": workspace, "imageId": "sha256:" + "0" * 64, "imageTag": name, "description": "for tests"}
    image = client.image.http_request("images", method="POST", query={"name": name}, data=data).json()
    client.image.http_request(f"images/{image['id']}", method="PATCH", data={"commit": True})


def emulated(home: Path, **changes: Any) -> dict[str, Any]:
    """Options of a job on the emulator that sees `home`."""
    return {
        "clusters": [CLUSTER], "workspace": WORKSPACE, "image": f"{USER}/{IMAGE}", "gpus": 0,
        "mounts": [f"host:{home}:{home}"], "result_path": f"{home}/results", "python": sys.executable, **changes,
    }  # fmt: skip


def submit(home: Path, one: JobSpec, key: str = "key", **changes: Any) -> JobHandle:
    """Send a job whose run is below `home`."""
    Path(one.run_dir).mkdir(parents=True, exist_ok=True)
    given = BeakerOptions.model_validate(emulated(home, **changes))
    return BeakerCluster().submit(plan(one, given), key)


def script(home: Path, text: str, *arguments: str, **fields: Any) -> JobSpec:
    """A job that runs a Python script, with its run below `home`."""
    return job(sys.executable, "-c", text, *arguments, **{"run_dir": str(home / "runs" / "one"), **fields})


def status(handle: JobHandle) -> JobStatus:
    """Its status now."""
    return BeakerCluster().status([handle])[handle]


def wait(handle: JobHandle, seconds: float = 50) -> JobStatus:
    """Its last status."""
    deadline = time.monotonic() + seconds
    while not (now := status(handle)).state.is_terminal:
        assert time.monotonic() < deadline, f"does not end: {now}"
        time.sleep(0.05)
    return now


def log(handle: JobHandle, replica: int = 0) -> bytes:
    """What a node has written."""
    return b"".join(BeakerCluster().logs(handle, replica=replica))


def wait_for_log(handle: JobHandle, text: bytes, seconds: float = 50) -> None:
    """Until the log of node 0 has `text`."""
    deadline = time.monotonic() + seconds
    while text not in log(handle):
        assert time.monotonic() < deadline, f"the log never has {text!r}: {log(handle)!r}, {status(handle)}"
        time.sleep(0.05)
