"""What the tests of cluster `local` share: jobs of small programs, and looks behind the curtain."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunewright.clusters.local.backend import LocalCluster
from tunewright.clusters.local.options import LocalOptions
from tunewright.contracts.jobs import JobHandle, JobSpec, SubmissionPlan
from tunewright.contracts.status import JobStatus

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
GREEDY = "x = b'x' * (400 << 20); import time; time.sleep(60)"
# A grandchild in a session of its own, whose pid is printed.
WITH_DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
    os._exit(0)
os.wait()
time.sleep(60)
"""


def make_job(home: Path, script: str, *arguments: str, **fields: Any) -> JobSpec:
    """A job with a run directory of its own below `home`."""
    run = f"run-{len(list(home.glob('runs/*')))}"
    (home / "runs" / run).mkdir(parents=True)
    return JobSpec(
        run=run,
        run_dir=str(home / "runs" / run),
        command=(sys.executable, "-I", "-S", "-c", script, *arguments),
        **fields,
    )


def make_plan(job: JobSpec, **options: Any) -> SubmissionPlan:
    """The job's plan."""
    return LocalCluster().plan(job, LocalOptions(**options))


def submit(job: JobSpec, cluster: LocalCluster | None = None, **options: Any) -> JobHandle:
    """Submit the job."""
    cluster = cluster or LocalCluster()
    return cluster.submit(make_plan(job, **options), job.run)


def document(handle: JobHandle) -> dict[str, Any]:
    """What the supervisor wrote last."""
    text: dict[str, Any] = json.loads(Path(handle.data, "state.json").read_text())
    return text


def eventually(is_so: Callable[[], object], seconds: float = 50) -> None:
    """Wait until `is_so` is true."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not so after {seconds} seconds"
        time.sleep(0.01)


def wait(handle: JobHandle) -> JobStatus:
    """The job's last status."""
    cluster = LocalCluster()
    eventually(lambda: cluster.status([handle])[handle].state.is_terminal)
    return cluster.status([handle])[handle]


def log(handle: JobHandle) -> bytes:
    """All the job wrote."""
    return b"".join(LocalCluster().logs(handle))


def wait_for_line(handle: JobHandle) -> bytes:
    """The log, once it has a line."""
    eventually(lambda: b"\n" in log(handle))
    return log(handle)


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


def environ_of(pid: int) -> bytes:
    """The environment a process was started with."""
    return Path(f"/proc/{pid}/environ").read_bytes()


def all_command_lines() -> bytes:
    """The command lines of everything that runs."""
    lines = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                lines.append(Path(f"/proc/{name}/cmdline").read_bytes())
            except OSError:
                continue
    return b"\n".join(lines)
