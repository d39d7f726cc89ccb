"""A stranger's plugin: a cluster of real processes, a variant, an environment, a dataset, and two listeners."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tunewright.contracts.clusters import Capability, ClusterInfo, ClusterRegistry
from tunewright.contracts.datasets import CachedDataset, DatasetRequest
from tunewright.contracts.environments import EnvironmentRef, EnvironmentRequest
from tunewright.contracts.errors import InvalidDataset, NotFound, SubmissionRefused
from tunewright.contracts.experiment import ResolvedExperiment
from tunewright.contracts.files import append_line, sha256_of_file
from tunewright.contracts.hookspecs import hookimpl
from tunewright.contracts.jobs import JobHandle, JobSpec, PlannedFile, SubmissionPlan
from tunewright.contracts.preflight import Finding
from tunewright.contracts.provenance import ProvenanceRecord
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import CauseKind, JobState, JobStatus
from tunewright.contracts.variants import VariantInfo, VariantRegistry

KEEPER = """
import json, os, subprocess, sys
place = sys.argv[1]
job = json.load(open(place + "/job.json"))
log = open(job["log"], "ab")
process = subprocess.Popen(job["argv"], env=job["env"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
code = process.wait()
open(place + "/end.tmp", "w").write(str(code))
os.rename(place + "/end.tmp", place + "/end")
"""


class YardOptions(Spec):
    """`[cluster.options]`."""

    gate: str = ""
    """A file. While it is there, the yard takes no job."""

    colour: str = "green"
    """Of the yard's own words."""


class Yard:
    """Runs each job in a session of its own on this machine."""

    def check(self) -> Sequence[Finding]:
        return ()

    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        assert isinstance(options, YardOptions)
        sent = {
            "argv": job.command,
            "env": job.variables,
            "log": f"{job.run_dir}/logs/0.log",
            "place": f"{job.run_dir}/yard",
        }
        main = PlannedFile(name="yard.json", text=json.dumps(sent, indent=1))
        return SubmissionPlan(cluster="yard", run=job.run, files=(main, PlannedFile(name="gate", text=options.gate)))

    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        gate = plan.text_of("gate")
        if gate and Path(gate).exists():
            raise SubmissionRefused(f"the gate {gate} is shut")
        place = Path(json.loads(plan.files[0].text)["place"]) / key
        handle = JobHandle(cluster="yard", native_id=key, data=str(place))
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            return handle
        (place / "job.json").write_text(plan.files[0].text)
        command = [sys.executable, "-I", "-S", "-c", KEEPER, str(place)]
        nowhere = subprocess.DEVNULL
        keeper = subprocess.Popen(
            command, stdin=nowhere, stdout=nowhere, stderr=nowhere, env={}, start_new_session=True
        )
        keeper.returncode = 0  # nobody here waits for it
        (place / "pid").write_text(str(keeper.pid))
        return handle

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        append_line(Path(os.environ["TUNEWRIGHT_HOME"]) / "asked", str(len(handles)))
        return {handle: self._status(Path(handle.data)) for handle in handles}

    def _status(self, place: Path) -> JobStatus:
        if not place.exists():
            return JobStatus(state=JobState.NOT_FOUND)
        if (place / "stopped").exists():
            return JobStatus(state=JobState.STOPPED, cause=CauseKind.STOPPED)
        if not (place / "end").exists():
            return JobStatus(state=JobState.RUNNING, started_at="2026-11-21T00:00:00.000Z")
        code = int((place / "end").read_text())
        if code < 0:
            return JobStatus(state=JobState.FAILED, cause=CauseKind.SIGNAL, signal=-code)
        state = JobState.FAILED if code else JobState.SUCCEEDED
        return JobStatus(state=state, cause=CauseKind.EXIT, exit_code=code)

    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        path = Path(json.loads((Path(handle.data) / "job.json").read_text())["log"])
        while True:
            has_ended = self._status(Path(handle.data)).state.is_terminal
            data = path.read_bytes()[since:] if path.exists() else b""
            since += len(data)
            yield data
            if not follow or has_ended:
                return
            time.sleep(0.05)

    def stop(self, handle: JobHandle) -> None:
        place = Path(handle.data)
        if (place / "end").exists() or (place / "stopped").exists():
            return
        (place / "stopped").touch()
        os.killpg(int((place / "pid").read_text()), signal.SIGKILL)


class Clumsy(Yard):
    """A cluster with a bug."""

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        raise ValueError("stumbled")

    def check(self) -> Sequence[Finding]:
        raise ValueError("stumbled")


class Paged(Yard):
    """A cluster that has a page for each job."""

    def url(self, handle: JobHandle) -> str | None:
        return f"https://yard.example/{handle.native_id}"


class PlainOptions(Spec):
    """`[training.options]`: what the script in `project.py` does."""

    exit_code: int = 0
    """What it ends with."""

    stop_at_step: int = 0
    """The step after which it ends with the exit code; 0 for the last one."""

    pause_seconds: float = 0.0
    """Between two steps."""

    is_held: bool = False
    """Whether it waits, before its last step, until the test lets it go."""

    salt: bool = False
    """Whether it leaves other weights each time."""

    mode: str = "good"
    """`good`, or `killed`: it kills itself."""


@hookimpl
def tunewright_register_clusters(register: ClusterRegistry) -> None:
    for name, entry in (("yard", "Yard"), ("clumsy", "Clumsy")):
        pex_only = frozenset({Capability.PEX})
        register.add(ClusterInfo(name, "processes of this machine", f"{__name__}:{entry}", YardOptions, 1, pex_only))
    has_pages = frozenset({Capability.PEX, Capability.URL})
    register.add(ClusterInfo("paged", "a yard with pages", f"{__name__}:Paged", YardOptions, 1, has_pages))


@hookimpl
def tunewright_register_variants(register: VariantRegistry) -> None:
    why_not = {"fsdp2": "one counter cannot be cut in pieces"}
    register.add(VariantInfo("plain", "counts steps", f"{__name__}:nothing", PlainOptions, api=1, refusals=why_not))


@hookimpl
def tunewright_preflight(experiment: ResolvedExperiment) -> Sequence[Finding]:
    if experiment.spec.name == "unlucky":
        return [Finding(code="unlucky-name", path="name", message="is unlucky", hint="choose another")]
    return []


@hookimpl
def tunewright_provide_environment(environment: EnvironmentRequest) -> EnvironmentRef | None:
    if environment.spec.kind != "pex":
        return None
    script = Path(environment.project_root) / "train.py"
    built = Path(environment.home) / "built"
    if not environment.plan_only:
        built.mkdir(parents=True, exist_ok=True)
        (built / "environment").touch()
    return EnvironmentRef(
        kind="pex", key=sha256_of_file(script), reference=f"{script} as it is", variables={"COLOUR": "blue"},
        command=(sys.executable, "-I", "-S", str(script)), sha256=None if environment.plan_only else "e" * 64,
        lock_digest="1" * 64,
    )  # fmt: skip


@hookimpl
def tunewright_provide_dataset(dataset: DatasetRequest, cache_root: str) -> CachedDataset:
    source = Path(dataset.project_root) / dataset.dataset.mix[0].source
    if not source.is_file():
        raise NotFound(f"dataset.mix[0].source: `{dataset.dataset.mix[0].source}`: no such file")
    digest = sha256_of_file(source)
    if dataset.plan_only:
        return CachedDataset(digest=digest, path=f"{cache_root}/{digest}")
    if b"broken" in source.read_bytes():
        raise InvalidDataset(f"{source}:1: has no messages")
    Path(cache_root, digest).mkdir(parents=True, exist_ok=True)
    known = {"source": dataset.dataset.mix[0].source, "files": [{"sha256": digest, "kind": "jsonl", "rows": 1}]}
    return CachedDataset(digest=digest, path=f"{cache_root}/{digest}", rows=1, tokens=2, sources=(known,))


@hookimpl
def tunewright_run_submitted(handle: JobHandle, job: JobSpec) -> None:
    append_line(Path(os.environ["TUNEWRIGHT_HOME"]) / "heard", f"submitted {job.run} {handle.native_id}")


@hookimpl
def tunewright_run_finished(record: ProvenanceRecord) -> None:
    append_line(Path(os.environ["TUNEWRIGHT_HOME"]) / "heard", f"finished {record.run} {record.outcome.state}")
