"""Clusters that start jobs in an order, with one fault each: cluster `local`, whose jobs wait for others themselves."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.clusters.local.backend import LocalCluster
from tunewright.clusters.local.options import LocalOptions
from tunewright.clusters.local.plan import PLAN_FILE
from tunewright.contracts.clusters import Capability, ClusterInfo, ClusterRegistry
from tunewright.contracts.hookspecs import hookimpl
from tunewright.contracts.jobs import JobHandle, JobSpec, PlannedFile, SubmissionPlan
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import CauseKind, JobState, JobStatus

NEVER_STARTED = 251
"""What a waiting job ends with where its turn does not come."""

# Waits until the jobs before it have ended, and becomes the command.
_WAIT = """
import json, os, sys, time
wanted, marker, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
directories, command = sys.argv[4:4 + count], sys.argv[4 + count:]
for directory in directories:
    while True:
        try:
            with open(os.path.join(directory, "state.json")) as file:
                state = json.load(file)["state"]
        except (OSError, ValueError):
            state = ""
        if state in ("SUCCEEDED", "FAILED", "STOPPED", "TIMED_OUT"):
            break
        time.sleep(0.01)
    if wanted == "success" and state != "SUCCEEDED":
        sys.exit(251)
os.remove(marker)
os.execvp(command[0], command)
"""


class LocalInOrder(LocalCluster):
    """No fault: jobs after jobs, and arrays, on this machine."""

    wanted = "success"

    def submit_after(self, plan: SubmissionPlan, key: str, after: Sequence[JobHandle]) -> JobHandle:
        return self.submit(self.waiting(plan, after, self.wanted), key)

    def waiting(self, plan: SubmissionPlan, after: Sequence[JobHandle], wanted: str) -> SubmissionPlan:
        process = json.loads(plan.text_of(PLAN_FILE))
        marker = Path(process["run_dir"], ".waits")
        marker.touch()
        places = [handle.data for handle in after]
        wait = [sys.executable, "-c", _WAIT, wanted, str(marker), str(len(places)), *places]
        process["arguments"] = [*wait, *process["arguments"]]
        return plan.model_copy(update={"files": (PlannedFile(name=PLAN_FILE, text=json.dumps(process)),)})

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        return {handle: self.told(handle, status) for handle, status in super().status(handles).items()}

    def told(self, handle: JobHandle, status: JobStatus) -> JobStatus:
        if status.exit_code == NEVER_STARTED:
            return JobStatus(state=JobState.STOPPED, cause=CauseKind.DEPENDENCY)
        waits = Path(handle.data).parents[1].joinpath(".waits").exists()
        return JobStatus(state=JobState.QUEUED) if waits and not status.state.is_terminal else status

    def largest_array(self, options: Spec) -> int:
        return 100

    def plan_array(self, jobs: Sequence[JobSpec], options: Spec, at_most: int | None) -> SubmissionPlan:
        processes = [json.loads(self.plan(job, options).text_of(PLAN_FILE)) for job in jobs]
        text = json.dumps({"at_most": at_most, "processes": processes})
        return SubmissionPlan(cluster="local", run=jobs[0].run, files=(PlannedFile(name="array.json", text=text),))

    def submit_array(self, plan: SubmissionPlan, key: str) -> Sequence[JobHandle]:
        array: dict[str, Any] = json.loads(plan.text_of("array.json"))
        handles: list[JobHandle] = []
        for number, process in enumerate(array["processes"]):
            files = (PlannedFile(name=PLAN_FILE, text=json.dumps(process)),)
            one = plan.model_copy(update={"files": files})
            before = self.before(handles, array["at_most"])
            handles.append(self.submit(self.waiting(one, before, "end") if before else one, f"{key}-{number}"))
        return handles

    def before(self, handles: Sequence[JobHandle], at_most: int | None) -> Sequence[JobHandle]:
        return [handles[-at_most]] if at_most and len(handles) >= at_most else []


class StartsAtOnce(LocalInOrder):
    def submit_after(self, plan: SubmissionPlan, key: str, after: Sequence[JobHandle]) -> JobHandle:
        return self.submit(plan, key)


class StartsAfterAnyEnd(LocalInOrder):
    wanted = "end"


class ForgetsWhyItNeverRan(LocalInOrder):
    def told(self, handle: JobHandle, status: JobStatus) -> JobStatus:
        told = super().told(handle, status)
        return told.model_copy(update={"cause": None}) if told.cause is CauseKind.DEPENDENCY else told


class SubmitsEveryTimeAfter(LocalInOrder):
    def submit_after(self, plan: SubmissionPlan, key: str, after: Sequence[JobHandle]) -> JobHandle:
        return super().submit_after(plan, f"{key}-{uuid.uuid4().hex}", after)


class CannotStopWhatWaits(LocalInOrder):
    def stop(self, handle: JobHandle) -> None:
        if self.status([handle])[handle].state is not JobState.QUEUED:
            super().stop(handle)


class StopsWhatItWaitsFor(LocalInOrder):
    def stop(self, handle: JobHandle) -> None:
        arguments = json.loads(Path(handle.data, PLAN_FILE).read_text())["arguments"]
        if arguments[1:3] == ["-c", _WAIT]:
            super().stop(JobHandle(cluster="local", native_id="?", data=arguments[6]))
        super().stop(handle)


class TellsEveryJobTheSame(LocalInOrder):
    def plan_array(self, jobs: Sequence[JobSpec], options: Spec, at_most: int | None) -> SubmissionPlan:
        return super().plan_array(
            [job.model_copy(update={"command": jobs[0].command}) for job in jobs], options, at_most
        )


class TellsOneEndForAll(LocalInOrder):
    def told(self, handle: JobHandle, status: JobStatus) -> JobStatus:
        return status.model_copy(update={"exit_code": 1}) if status.state is JobState.FAILED else status


class RunsAllAtATime(LocalInOrder):
    def before(self, handles: Sequence[JobHandle], at_most: int | None) -> Sequence[JobHandle]:
        return []


class SubmitsArraysEveryTime(LocalInOrder):
    def submit_array(self, plan: SubmissionPlan, key: str) -> Sequence[JobHandle]:
        return super().submit_array(plan, f"{key}-{uuid.uuid4().hex}")


class StopsTheWholeArray(LocalInOrder):
    def stop(self, handle: JobHandle) -> None:
        for state in Path(handle.data).parents[2].glob("*/local/*"):
            super().stop(handle.model_copy(update={"data": str(state)}))


FAULTS: dict[str, type[LocalInOrder]] = {
    cluster.__name__: cluster
    for cluster in list(globals().values())
    if isinstance(cluster, type) and issubclass(cluster, LocalInOrder) and cluster is not LocalInOrder
}

_CAN = frozenset({Capability.PEX, Capability.RETRIES, Capability.SECRETS, Capability.DEPENDS, Capability.ARRAY})


@hookimpl
def tunewright_register_clusters(register: ClusterRegistry) -> None:
    """Register each under its class's name."""
    for name in ("LocalInOrder", *FAULTS):
        entry = f"{__name__}:{name}"
        register.add(ClusterInfo(name, "starts in order", entry, LocalOptions, api=1, capabilities=_CAN))
