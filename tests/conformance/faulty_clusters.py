"""Clusters with one fault each, made from cluster `local`: what the conformance suite must catch.

Faults of a plugin are methods that do it wrong; faults of what runs the job are one changed line of the supervisor.
"""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunewright.clusters.local.backend import LocalCluster
from tunewright.clusters.local.options import LocalOptions
from tunewright.clusters.local.plan import PLAN_FILE
from tunewright.contracts.clusters import Capability, ClusterInfo, ClusterRegistry
from tunewright.contracts.errors import NotFound
from tunewright.contracts.hookspecs import hookimpl
from tunewright.contracts.jobs import JobHandle, JobSpec, PlannedFile, Resources, SubmissionPlan
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import CauseKind, JobState, JobStatus


def changed(plan: SubmissionPlan, change: Callable[[dict[str, Any]], None]) -> SubmissionPlan:
    """The plan with its process changed."""
    process = json.loads(plan.files[0].text)
    change(process)
    return plan.model_copy(update={"files": (PlannedFile(name=plan.files[0].name, text=json.dumps(process)),)})


class PlansWithRandomId(LocalCluster):
    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        return changed(super().plan(job, options), lambda process: process.update(id=str(uuid.uuid4())))


class PlansWithTime(LocalCluster):
    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        return changed(super().plan(job, options), lambda process: process.update(at=int(time.time())))


class PlansInSetOrder(LocalCluster):
    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        return changed(super().plan(job, options), lambda process: process.update(order=list(set(job.command))))


class PlansWithAFile(LocalCluster):
    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        Path(job.run_dir, "plan.tmp").write_text("x")
        return super().plan(job, options)


class PlansWithTheUsersName(LocalCluster):
    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        return changed(super().plan(job, options), lambda process: process.update(user=os.environ.get("USER")))


class PlansSecretValues(LocalCluster):
    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        values = {variable: os.environ.get(name, "") for variable, name in job.secrets.items()}
        return changed(super().plan(job, options), lambda process: process.update(values=values))


class RunsAnyNumberOfNodesAsOne(LocalCluster):
    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        return super().plan(job.model_copy(update={"resources": type(job.resources)()}), options)


class LeaksTheClientsEnvironment(LocalCluster):
    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        mixed = changed(plan, lambda process: process.update(variables={**os.environ, **process["variables"]}))
        return super().submit(mixed, key)


class JoinsArgumentsForAShell(LocalCluster):
    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        def join(process: dict[str, Any]) -> None:
            quoted = " ".join(f'"{argument}"' for argument in process["arguments"])
            process["arguments"] = ["/bin/sh", "-c", quoted]

        return super().submit(changed(plan, join), key)


class SubmitsEveryTime(LocalCluster):
    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        return super().submit(plan, f"{key}-{uuid.uuid4().hex}")


class IgnoresTheKey(LocalCluster):
    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        return super().submit(plan, "job")


class KillsTheJobWithTheClient(LocalCluster):
    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        handle = super().submit(plan, key)
        client = os.getpid()
        if os.fork() == 0:  # a watcher, as libraries have that end jobs when their client ends
            for descriptor in (0, 1, 2):
                os.close(descriptor)
            while os.getppid() == client:
                time.sleep(0.01)
            LocalCluster().stop(handle)
            os._exit(0)
        return handle


class LosesExitCodes(LocalCluster):
    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        statuses = super().status(handles)
        lost = {"exit_code": 1}
        return {
            handle: status.model_copy(update=lost) if status.exit_code else status
            for handle, status in statuses.items()
        }


class KnowsNoMemory(LocalCluster):
    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        lost = {"cause": CauseKind.SIGNAL}
        statuses = super().status(handles)
        return {
            handle: status.model_copy(update=lost) if status.cause is CauseKind.OUT_OF_MEMORY else status
            for handle, status in statuses.items()
        }


class RaisesForUnknownJobs(LocalCluster):
    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        statuses = super().status(handles)
        if any(status.state is JobState.NOT_FOUND for status in statuses.values()):
            raise NotFound("no such job")
        return statuses


class DropsTheLastLine(LocalCluster):
    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        data = b"".join(super().logs(handle, replica, follow, since))
        yield data[: data.rfind(b"\n") + 1]


class DecodesLogs(LocalCluster):
    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        for piece in super().logs(handle, replica, follow, since):
            yield piece.decode(errors="replace").encode()


class KeepsOneMegabyteOfLog(LocalCluster):
    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        yield b"".join(super().logs(handle, replica, follow, since))[: 1 << 20]


class FollowsWithoutFollowing(LocalCluster):
    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        return super().logs(handle, replica, False, since)


class IgnoresSince(LocalCluster):
    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        return super().logs(handle, replica, follow, 0)


class AnswersForEveryReplica(LocalCluster):
    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        return super().logs(handle, 0, follow, since)


class StopsOnlyOnce(LocalCluster):
    def stop(self, handle: JobHandle) -> None:
        if Path(handle.data, "stop").exists() or super().status([handle])[handle].state.is_terminal:
            raise RuntimeError("is stopped already")
        super().stop(handle)


class StopsTheMainProcessOnly(LocalCluster):
    def stop(self, handle: JobHandle) -> None:
        document = json.loads(Path(handle.data, "state.json").read_text())
        if document["state"] == "RUNNING":
            os.kill(document["job"][0], signal.SIGKILL)


class SeveralLocalNodes(LocalCluster):
    """A cluster of several nodes without a fault: each is a job of cluster `local`, beside the others."""

    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        nodes = range(job.resources.nodes)
        plans = [super(SeveralLocalNodes, self).plan(self.node(job, rank), options) for rank in nodes]
        files = tuple(PlannedFile(name=f"node-{rank}.json", text=plans[rank].files[0].text) for rank in nodes)
        return SubmissionPlan(cluster="local", run=job.run, files=files)

    def node(self, job: JobSpec, rank: int) -> JobSpec:
        told = self.told(job, rank) if job.resources.nodes > 1 else {}
        own = {"resources": Resources(), "variables": {**job.variables, **told}, "run_dir": f"{job.run_dir}/{rank}"}
        return job.model_copy(update=own)

    def told(self, job: JobSpec, rank: int) -> dict[str, str]:
        port = str(20000 + zlib.crc32(job.run_dir.encode()) % 10000)
        names = ("TUNEWRIGHT_NODE_RANK", "TUNEWRIGHT_MASTER_ADDRESS", "TUNEWRIGHT_MASTER_PORT")
        return dict(zip(names, (str(rank), "127.0.0.1", port), strict=True))

    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        nodes = []
        for file in plan.files:
            Path(json.loads(file.text)["run_dir"]).mkdir(exist_ok=True)
            files = (PlannedFile(name=PLAN_FILE, text=file.text),)
            nodes.append(super().submit(plan.model_copy(update={"files": files}), key))
        return JobHandle(cluster="local", native_id="?", data="\n".join(node.data for node in nodes))

    def nodes(self, handle: JobHandle) -> list[JobHandle]:
        return [JobHandle(cluster="local", native_id="?", data=data) for data in handle.data.split("\n")]

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        return {handle: self.together(super(SeveralLocalNodes, self).status(self.nodes(handle))) for handle in handles}

    def together(self, nodes: Mapping[JobHandle, JobStatus]) -> JobStatus:
        failed = [node for node in nodes.values() if node.state is JobState.FAILED]
        left = [handle for handle, node in nodes.items() if not node.state.is_terminal]
        if failed and left:
            self.end(left)
        return nodes[left[0]] if left else (failed or list(nodes.values()))[0]

    def end(self, left: Sequence[JobHandle]) -> None:
        for node in left:
            super().stop(node)

    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        return super().logs(self.nodes(handle)[replica], 0, follow, since)

    def stop(self, handle: JobHandle) -> None:
        self.end(self.nodes(handle))


class GivesEveryNodeTheSameRank(SeveralLocalNodes):
    def told(self, job: JobSpec, rank: int) -> dict[str, str]:
        return super().told(job, 0)


class SendsEachNodeElsewhere(SeveralLocalNodes):
    def told(self, job: JobSpec, rank: int) -> dict[str, str]:
        return {**super().told(job, rank), "TUNEWRIGHT_MASTER_ADDRESS": f"127.0.0.{rank + 1}"}


class SendsNodesWhereNobodyIs(SeveralLocalNodes):
    def told(self, job: JobSpec, rank: int) -> dict[str, str]:
        return {**super().told(job, rank), "TUNEWRIGHT_MASTER_ADDRESS": "nowhere.invalid"}


class LeavesTheOtherNodesRunning(SeveralLocalNodes):
    def together(self, nodes: Mapping[JobHandle, JobStatus]) -> JobStatus:
        left = [node for node in nodes.values() if not node.state.is_terminal]
        return left[0] if left else super().together(nodes)


class TellsTheFirstNodesEnd(SeveralLocalNodes):
    def together(self, nodes: Mapping[JobHandle, JobStatus]) -> JobStatus:
        together = super().together(nodes)
        return next(iter(nodes.values())) if together.state.is_terminal else together


class TellsOneNodeOfOthers(LocalCluster):
    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        told = {"TUNEWRIGHT_NODE_RANK": "0"}
        return super().plan(job.model_copy(update={"variables": {**job.variables, **told}}), options)


def mutated(name: str, line: str, instead: str) -> type[LocalCluster]:
    """A cluster whose supervisor has one line changed."""

    def source() -> str:
        text = LocalCluster.supervisor_source()
        assert text.count(line) == 1, f"the supervisor has no such line any more: {line}"
        return text.replace(line, instead)

    return type(name, (LocalCluster,), {"supervisor_source": staticmethod(source)})


LeavesGrandchildren = mutated(
    "LeavesGrandchildren",
    "return descendants(os.getpid(), process_table())\n\n    def pause",
    "table = process_table()\n"
    "        return {pid for pid in table if table[pid].session == self.main}\n\n    def pause",
)
ForgivesTheDeaf = mutated("ForgivesTheDeaf", "send(left, signal.SIGKILL)", "send(left, signal.SIGTERM)")
CountsNoAttempts = mutated("CountsNoAttempts", '"TUNEWRIGHT_ATTEMPT": str(attempt)', '"TUNEWRIGHT_ATTEMPT": "0"')
RetriesForever = mutated("RetriesForever", 'self.attempt < self.plan["max_retries"]', "self.attempt < 4")
RetriesWhatWasStopped = mutated(
    "RetriesWhatWasStopped",
    'return left and outcome["state"] == "FAILED"',
    'os.path.exists(p := os.path.join(self.directory, "stop")) and os.remove(p)\n'
    "        self.stop_reason = None\n"
    '        return left and outcome["state"] in ("FAILED", "STOPPED")',
)
CallsSignalsFailures = mutated("CallsSignalsFailures", "os.WTERMSIG(wait_status) if", "None if")
CallsTimeoutsStopped = mutated("CallsTimeoutsStopped", 'return "TIMED_OUT", "timeout"', 'return "STOPPED", "stopped"')
AddsVariables = mutated("AddsVariables", 'base = {"PATH": BASE_PATH', 'base = {"JOB_KEY": "x", "PATH": BASE_PATH')
GivesAnOpenInput = mutated(
    "GivesAnOpenInput", "null = os.open(os.devnull, os.O_RDONLY)", 'null = os.open("/etc/passwd", os.O_RDONLY)'
)
WritesSecrets = mutated("WritesSecrets", '"group": None, "apart"', '"environment": secrets, "group": None, "apart"')
ErrorsGoElsewhere = mutated("ErrorsGoElsewhere", "(log, 1), (log, 2)", "(log, 1), (null, 2)")

FAULTS: dict[str, type[LocalCluster]] = {
    cluster.__name__: cluster
    for cluster in list(globals().values())
    if isinstance(cluster, type) and issubclass(cluster, LocalCluster)
    if cluster not in (LocalCluster, SeveralLocalNodes)
}


@hookimpl
def tunewright_register_clusters(register: ClusterRegistry) -> None:
    """Register each faulty cluster under its class's name, and one that promises too much."""
    can = {Capability.PEX, Capability.RETRIES, Capability.SECRETS, Capability.MEMORY_LIMIT}
    for name, cluster in {**FAULTS, "SeveralLocalNodes": SeveralLocalNodes}.items():
        several = {Capability.MULTINODE} if issubclass(cluster, SeveralLocalNodes) else set()
        register.add(_info(name, f"{__name__}:{name}", can | several))
    register.add(
        _info("PromisesSeveralNodes", "tunewright.clusters.local.backend:LocalCluster", {Capability.MULTINODE})
    )


def _info(name: str, entry: str, can: set[Capability]) -> ClusterInfo:
    return ClusterInfo(name, "has a fault", entry, LocalOptions, api=1, capabilities=frozenset(can))
