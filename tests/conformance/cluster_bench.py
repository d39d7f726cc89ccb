"""What a check works with: one cluster, jobs that are small Python programs, and an end to all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from conformance import cluster_probe
from tunewright.contracts.clusters import Cluster, ClusterInfo
from tunewright.contracts.jobs import JobHandle, JobSpec, SubmissionPlan
from tunewright.contracts.plugins import options_type_of
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import JobStatus

POLL_SECONDS = 0.02


@dataclass
class Bench:
    """A cluster under test. `home` is an empty directory that the cluster's machines can read and write."""

    plugin: ModuleType
    name: str
    home: Path
    python: Sequence[str]
    options_given: Mapping[str, Any]
    patience_seconds: float
    submitted: list[JobHandle] = field(default_factory=list)

    @property
    def info(self) -> ClusterInfo:
        """What the plugin registered."""
        return cluster_probe.find_info(self.plugin.__name__, self.name)

    @property
    def gate(self) -> Path:
        """A file that jobs can wait for. Nobody has made it yet."""
        return self.home / "gate"

    def cluster(self) -> Cluster:
        """A new object, as each command has its own: what it knows must not matter."""
        return cluster_probe.make_cluster(self.info)

    def options(self, **changes: Any) -> Spec:
        """The options the author gave, with changes."""
        return options_type_of(self.info).model_validate({**self.options_given, **changes})

    def job(self, script: str, *arguments: str, **fields: Any) -> JobSpec:
        """A job that runs a Python script with `arguments`, in a run directory of its own."""
        return self.command(*self.python, "-c", script, *arguments, **fields)

    def command(self, *command: str, **fields: Any) -> JobSpec:
        """A job that runs `command`, in a run directory of its own."""
        runs = self.home / "runs"
        runs.mkdir(exist_ok=True)
        run = f"conformance-{len(list(runs.iterdir()))}"
        (runs / run).mkdir()
        return JobSpec(run=run, run_dir=str(runs / run), command=command, **fields)

    def plan(self, job: JobSpec, **options: Any) -> SubmissionPlan:
        """The job's plan, after a way through a file: nothing but its text may count."""
        plan = self.cluster().plan(job, self.options(**options))
        return SubmissionPlan.model_validate_json(plan.model_dump_json())

    def submit(self, job: JobSpec, key: str | None = None, **options: Any) -> JobHandle:
        """Submit the job, under its run's name unless there is a `key`. It is stopped when the check is over."""
        handle = self.cluster().submit(self.plan(job, **options), key or job.run)
        return self.keep(handle.model_dump_json())

    def keep(self, handle_json: str) -> JobHandle:
        """A handle read from text, as from `handle.json`; its job is stopped when the check is over."""
        handle = JobHandle.model_validate_json(handle_json)
        self.submitted.append(handle)
        return handle

    def status(self, handle: JobHandle) -> JobStatus:
        """The job's status now."""
        return self.cluster().status([handle])[handle]

    def wait(self, handle: JobHandle) -> JobStatus:
        """The job's last status."""
        for _ in self.patiently(f"the job does not end: {self.status(handle)}"):
            status = self.status(handle)
            if status.state.is_terminal:
                return status
        raise AssertionError  # never reached: patience ends by an error

    def log(self, handle: JobHandle, since: int = 0, replica: int = 0) -> bytes:
        """What the job has written so far, on node `replica`."""
        return b"".join(self.cluster().logs(handle, replica=replica, since=since))

    def wait_for_log(self, handle: JobHandle, text: bytes) -> bytes:
        """The log, once it has `text` in it."""
        for _ in self.patiently(f"the log never shows {text!r}"):
            log = self.log(handle)
            if text in log:
                return log
        raise AssertionError  # never reached: patience ends by an error

    def run(self, script: str, *arguments: str, **fields: Any) -> tuple[JobStatus, bytes]:
        """A job's last status and its whole log."""
        handle = self.submit(self.job(script, *arguments, **fields))
        return self.wait(handle), self.log(handle)

    def report(self, script: str, *arguments: str, **fields: Any) -> Any:
        """What a job that prints one JSON document has printed."""
        status, log = self.run(script, *arguments, **fields)
        assert status.shell_exit_code == 0, (
            f"a job that only prints has failed: {status}\n{log.decode(errors='ignore')}"
        )
        return json.loads(log)

    def patiently(self, complaint: str) -> Iterator[None]:
        """Again and again, until the author's patience is over."""
        deadline = time.monotonic() + self.patience_seconds
        while time.monotonic() < deadline:
            yield
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"{complaint} (after {self.patience_seconds} seconds)")

    def probe(self, action: str, variables: Mapping[str, str] | None = None, **request: Any) -> subprocess.Popen[str]:
        """Start a client in a process of its own, with `variables` added to its environment."""
        request = {"plugin": self.plugin.__name__, "name": self.name, "options": dict(self.options_given), **request}
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **(variables or {})}
        process = subprocess.Popen(
            [sys.executable, cluster_probe.__file__, action],
            env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(json.dumps(request))
        process.stdin.close()
        process.stdin = None  # `communicate` would flush it once more
        return process

    def ask(self, action: str, variables: Mapping[str, str] | None = None, **request: Any) -> str:
        """What such a client prints."""
        process = self.probe(action, variables, **request)
        out, err = process.communicate(timeout=self.patience_seconds)
        assert process.returncode in (0, -9), f"{action} failed: {err.strip().splitlines()[-1:]}"
        return out.strip()

    def close(self) -> None:
        """Stop whatever still runs, and wait for it."""
        for handle in self.submitted:
            self.cluster().stop(handle)
        for handle in self.submitted:
            self.wait(handle)


@contextmanager
def opened(bench: Bench) -> Iterator[Bench]:
    """`bench`, with all its jobs ended at the end."""
    try:
        yield bench
    finally:
        bench.close()
