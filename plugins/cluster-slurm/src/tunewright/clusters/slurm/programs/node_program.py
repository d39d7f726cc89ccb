"""What srun starts on each node: it becomes the parent of the job's command, and says how that ended.

It is told everything on its standard input, so that no shell, and nobody who lists processes, sees any of it.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from typing import Any

BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEVICE_VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "HIP_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK",
)  # fmt: skip
"""By these Slurm tells a job its GPUs. Nothing else of Slurm's reaches the command."""

WARNINGS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT)
"""Slurm sends them to its task, which is this program and nothing below it. They are handed on, and noted."""


def run_node(job: dict[str, Any]) -> int:
    """Run the command of `job` to its end. Gives what srun shall exit with: the exit code, or 128 + the signal."""
    rank = int(os.environ.get("SLURM_NODEID", "0"))
    warned: list[int] = []
    kills_before = oom_kills()
    code, message = run_command(job, rank, warned)
    record = {
        "attempt": job["attempt"],
        "rank": rank,
        "node": os.environ.get("SLURMD_NODENAME", ""),
        "exit_code": code if code >= 0 else None,
        "signal": -code if code < 0 else None,
        "is_out_of_memory": code != 0 and oom_kills() > kills_before,
        "warned": warned,
        "ended_at": time.time(),
        "message": message,
    }
    write_json(os.path.join(job["directory"], f"node-{rank}.json"), record)
    return code if code >= 0 else 128 - code


def run_command(job: dict[str, Any], rank: int, warned: list[int]) -> tuple[int, str]:
    """Its exit code, or minus the signal that ended it, and what is to be said about it. `warned` gets the signals."""
    variables = variables_of(job, rank)
    process: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, _: Any) -> None:
        warned.append(number)
        if process is not None:
            process.send_signal(number)

    for number in WARNINGS:
        signal.signal(number, hand_on)
    with open(os.path.join(job["run_dir"], "logs", f"replica-{rank}.log"), "ab", buffering=0) as log:
        try:
            process = subprocess.Popen(
                job["command"], env=variables, cwd=job["run_dir"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,  # some ways of tracking signal a whole group: once is enough
            )  # fmt: skip
        except OSError as error:
            node = os.environ.get("SLURMD_NODENAME", "")
            message = "cannot start `{}` on node {}: {}".format(job["command"][0], node, error.strerror)
            return 126 if isinstance(error, PermissionError) else 127, message
    for missed in list(warned):  # while it was being started
        process.send_signal(missed)
    return process.wait(), ""


def variables_of(job: dict[str, Any], rank: int) -> dict[str, str]:
    """All the command gets: a small base, its GPUs, its own variables, and its place among the nodes."""
    user = pwd.getpwuid(os.getuid())
    own = {"TUNEWRIGHT_ATTEMPT": str(job["attempt"])}
    if job["num_nodes"] > 1:
        own["TUNEWRIGHT_NODE_RANK"] = str(rank)
        own["TUNEWRIGHT_MASTER_ADDRESS"] = job["master_address"]
        own["TUNEWRIGHT_MASTER_PORT"] = str(job["master_port"])
    variables = {"PATH": BASE_PATH, "HOME": user.pw_dir, "USER": user.pw_name, "LANG": "C.UTF-8"}
    variables.update({name: os.environ[name] for name in DEVICE_VARIABLES if name in os.environ})
    told = dict(job["variables"], **job["secrets"])
    told.update(own)
    if job["container"] == "apptainer":  # it hands on what has this prefix, whatever is in it
        told = {"APPTAINERENV_" + name: value for name, value in told.items()}
    variables.update(told)
    return variables


def oom_kills() -> int:
    """How many processes of our control group were killed for memory so far; 0 where nobody counts."""
    for line in lines_of("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            count = counted(f"/sys/fs/cgroup/memory{path}/memory.oom_control")
            # A node in a namespace sees its own part of the tree only.
            return count if count is not None else oom_kills_below("/sys/fs/cgroup/memory", path)
        if not controllers:
            count = counted(f"/sys/fs/cgroup{path}/memory.events")
            if count is not None:
                return count
    return 0


def oom_kills_below(mount: str, path: str) -> int:
    """The same, where only the end of `path` is seen below `mount`."""
    parts = path.strip("/").split("/")
    for start in range(1, len(parts)):
        count = counted(os.path.join(mount, *parts[start:], "memory.oom_control"))
        if count is not None:
            return count
    return 0


def counted(file: str) -> int | None:
    """The line `oom_kill N` of a control group's file."""
    for line in lines_of(file):
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return None


def lines_of(file: str) -> list[str]:
    """The lines of a file of the kernel's; none where it is not there."""
    try:
        with open(file, encoding="utf-8") as opened:
            return opened.read().splitlines()
    except OSError:
        return []


def write_json(path: str, document: dict[str, Any]) -> None:
    """Put the document in place as a whole: who reads it has the old one or the new one."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, path)


if __name__ == "__main__":
    sys.exit(run_node(JOB))  # type: ignore[name-defined]  # noqa: F821 - whoever starts this has put it there
