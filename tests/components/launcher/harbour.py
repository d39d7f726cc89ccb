"""A cluster that starts jobs after others, and takes many as an array: real processes, as those of the yard."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.launcher.stranger import Yard, YardOptions
from tunewright.contracts.clusters import Capability, ClusterInfo, ClusterRegistry
from tunewright.contracts.errors import SubmissionRefused
from tunewright.contracts.files import append_line
from tunewright.contracts.hookspecs import hookimpl
from tunewright.contracts.jobs import JobHandle, JobSpec, PlannedFile, SubmissionPlan
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import CauseKind, JobState, JobStatus

KEEPER = """
import fcntl, json, os, subprocess, sys, time
place = sys.argv[1]
job = json.load(open(place + "/job.json"))
def end(name, text):
    open(place + "/end.tmp", "w").write(text)
    os.rename(place + "/end.tmp", place + "/" + name)
    sys.exit()
for other in job["after"]:
    while not os.path.exists(other + "/end"):
        if os.path.exists(other + "/stopped") or os.path.exists(other + "/orphaned"):
            end("orphaned", "")
        time.sleep(0.05)
    if open(other + "/end").read() != "0":
        end("orphaned", "")
slot = None
while job["slots"] and slot is None:
    for name in job["slots"]:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            slot = descriptor
            break
        except BlockingIOError:
            os.close(descriptor)
    else:
        time.sleep(0.05)
open(place + "/begun", "w").close()
log = open(job["log"], "ab")
process = subprocess.Popen(job["argv"], env=job["env"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
end("end", str(process.wait()))
"""


class Harbour(Yard):
    """The yard, with everything that `DependsCluster` and `ArrayCluster` have."""

    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        return super().plan(job, options).model_copy(update={"cluster": "harbour"})

    def largest_array(self, options: Spec) -> int:
        return 8

    def plan_array(self, jobs: Sequence[JobSpec], options: Spec, at_most: int | None) -> SubmissionPlan:
        assert isinstance(options, YardOptions)
        plans = [json.loads(self.plan(job, options).files[0].text) for job in jobs]
        main = PlannedFile(name="array.json", text=json.dumps({"at_most": at_most, "jobs": plans}, indent=1))
        run = f"array of {len(jobs)}"
        return SubmissionPlan(cluster="harbour", run=run, files=(main, PlannedFile(name="gate", text=options.gate)))

    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        return self.submit_after(plan, key, ())

    def submit_after(self, plan: SubmissionPlan, key: str, after: Sequence[JobHandle]) -> JobHandle:
        append_line(Path(json.loads(plan.files[0].text)["place"]).parents[2] / "submissions", f"one {key}")
        self._refuse_shut(plan)
        return self._start(json.loads(plan.files[0].text), key, [handle.data for handle in after], [])

    def submit_array(self, plan: SubmissionPlan, key: str) -> Sequence[JobHandle]:
        self._refuse_shut(plan)
        document = json.loads(plan.files[0].text)
        runs = Path(document["jobs"][0]["place"]).parents[1]
        append_line(runs.parent / "submissions", f"array of {len(document['jobs'])} {key}")
        slots = [str(runs.parent / f"{key}.slot-{number}") for number in range(document["at_most"] or 0)]
        return [self._start(job, f"{key}_{index}", [], slots) for index, job in enumerate(document["jobs"])]

    def _refuse_shut(self, plan: SubmissionPlan) -> None:
        gate = plan.text_of("gate")
        if gate and Path(gate).exists():
            raise SubmissionRefused(f"the gate {gate} is shut")

    def _start(self, sent: dict[str, Any], key: str, after: Sequence[str], slots: Sequence[str]) -> JobHandle:
        place = Path(sent["place"]) / key
        handle = JobHandle(cluster="harbour", native_id=key, data=str(place))
        try:
            place.mkdir(parents=True)
        except FileExistsError:
            return handle
        (place / "job.json").write_text(json.dumps({**sent, "after": list(after), "slots": list(slots)}))
        command = [sys.executable, "-I", "-S", "-c", KEEPER, str(place)]
        nowhere = subprocess.DEVNULL
        keeper = subprocess.Popen(
            command, stdin=nowhere, stdout=nowhere, stderr=nowhere, env={}, start_new_session=True
        )
        keeper.returncode = 0  # nobody here waits for it
        (place / "pid").write_text(str(keeper.pid))
        return handle

    def _status(self, place: Path) -> JobStatus:
        if (place / "orphaned").exists():
            return JobStatus(state=JobState.STOPPED, cause=CauseKind.DEPENDENCY)
        status = super()._status(place)
        waits = status.state is JobState.RUNNING and not (place / "begun").exists()
        return JobStatus(state=JobState.QUEUED) if waits else status


class Liar(Yard):
    """A cluster that claims what it has not."""


@hookimpl
def tunewright_register_clusters(register: ClusterRegistry) -> None:
    can = frozenset({Capability.PEX, Capability.ARRAY, Capability.DEPENDS})
    for name, entry in (("harbour", "Harbour"), ("liar", "Liar")):
        register.add(ClusterInfo(name, "starts jobs after others", f"{__name__}:{entry}", YardOptions, 1, can))
