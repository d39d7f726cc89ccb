"""A client in a process of its own, for what a test must not do in its own: `cluster_probe.py ACTION < request`.

`register` tells what registering imported; `plan` prints a plan; `plan-watched` prints it while effects are errors;
`submit` prints a handle; `submit-and-die` prints it and is killed by SIGKILL, as a launcher may be.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from types import FrameType
from typing import Any

from tunewright.contracts.clusters import Cluster, ClusterInfo, ClusterRegistry
from tunewright.contracts.jobs import JobSpec, SubmissionPlan
from tunewright.contracts.plugins import load_entry, options_type_of

HEAVY = ("torch", "transformers", "numpy", "boto3", "kubernetes", "beaker", "docker", "pyarrow", "requests")
"""What no plugin may import to register."""

FORBIDDEN_EVENTS = (
    "socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.mkdir", "os.remove", "os.rename",
    "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.listdir", "os.scandir", "shutil.", "tempfile.", "urllib.",
)  # fmt: skip


def find_info(plugin: str, name: str) -> ClusterInfo:
    """What the plugin module registers under `name`."""
    registry = ClusterRegistry()
    importlib.import_module(plugin).tunewright_register_clusters(register=registry)
    return registry.get(name)


def make_cluster(info: ClusterInfo) -> Cluster:
    """The cluster behind its entry."""
    cluster: Cluster = load_entry(info.entry, info.name)()
    return cluster


def watch_effects(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: whatever leaves the process ends the probe. Python may read its own modules."""
    if event != "open" and not event.startswith(FORBIDDEN_EVENTS):
        return
    is_written = event == "open" and bool((arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if is_written or not any(file.startswith("<frozen importlib") for file in _callers()):
        # An exception could be caught, and showing it would open files.
        os.write(2, f"plan() has an effect: {event} {arguments!r}\n".encode())
        os._exit(1)


def _callers() -> list[str]:
    frame: FrameType | None = sys._getframe(1)
    names = []
    while frame is not None:
        names.append(frame.f_code.co_filename)
        frame = frame.f_back
    return names


def plan_text(request: dict[str, Any], is_watched: bool) -> str:
    """The plan that the request's job and options give."""
    info = find_info(request["plugin"], request["name"])
    cluster, options = make_cluster(info), options_type_of(info).model_validate(request["options"])
    job = JobSpec.model_validate(request["job"])
    _ = options.to_document(), job.to_document()  # models are built at first use: not the plugin's doing
    SubmissionPlan.model_json_schema()
    if is_watched:
        sys.dont_write_bytecode = True
        sys.addaudithook(watch_effects)
    plan = cluster.plan(job, options)
    if is_watched:
        os.write(1, plan.model_dump_json().encode())
        os._exit(0)  # leaving properly is not the plugin's doing
    return plan.model_dump_json()


def submit(request: dict[str, Any]) -> str:
    """Submit the request's plan and give the handle."""
    cluster = make_cluster(find_info(request["plugin"], request["name"]))
    return cluster.submit(SubmissionPlan.model_validate_json(request["plan"]), request["key"]).model_dump_json()


def main(action: str) -> None:
    """Do one action; the answer is JSON on standard output."""
    request = json.load(sys.stdin)
    if action == "register":
        info = find_info(request["plugin"], request["name"])
        entry_module = info.entry.partition(":")[0]
        imported = {name.partition(".")[0] for name in sys.modules}
        print(json.dumps({"heavy": sorted(imported & set(HEAVY)), "has_entry": entry_module in sys.modules}))
    elif action in ("plan", "plan-watched"):
        print(plan_text(request, action == "plan-watched"))
    else:
        print(submit(request), flush=True)
        if action == "submit-and-die":
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
