"""What happens to jobs: how one is made, canceled and ended, and what follows for its task and its siblings."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from beaker import beaker_pb2 as pb2
from google.protobuf import json_format  # pants: no-infer-dep

from tunewright.beaker_emulator.identifiers import new_id, new_name
from tunewright.beaker_emulator.launches import Report, Runner
from tunewright.beaker_emulator.moments import now
from tunewright.beaker_emulator.refusals import InvalidRequest
from tunewright.beaker_emulator.store import Store
from tunewright.beaker_emulator.submission import parsed_spec, task_spec

Status = pb2.WorkloadStatus
Code = pb2.CancelationCode

LAUNCHED = frozenset({Status.STATUS_INITIALIZING, Status.STATUS_RUNNING, Status.STATUS_STOPPING})
"""A job in one of these has something on its node."""

ENDED = frozenset({Status.STATUS_SUCCEEDED, Status.STATUS_FAILED, Status.STATUS_CANCELED})
"""Nothing more happens to what is in one of these."""

_PREEMPTED = frozenset(
    {
        Code.CANCELATION_CODE_SYSTEM_PREEMPTION,
        Code.CANCELATION_CODE_USER_PREEMPTION,
        Code.CANCELATION_CODE_SIBLING_TASK_PREEMPTION,
    }
)
_AS_FAILED = frozenset({Code.CANCELATION_CODE_TIMEOUT, Code.CANCELATION_CODE_NODE_UNAVAILABLE})
_METRICS_FILE = "metrics.json"


class Lifecycle:
    """Changes jobs. Its callers hold the store's lock."""

    def __init__(self, store: Store, runner: Runner) -> None:
        self._store = store
        self._runner = runner

    def create_job(self, experiment: pb2.Experiment, task: pb2.Task, previous: pb2.Job | None = None) -> pb2.Job:
        """A queued job for a task, with a result dataset of its own."""
        workspace = self._store.workspaces.get(experiment.workspace_id)
        sent = self._store.specs.get(experiment.id)
        job = pb2.Job(
            id=new_id(),
            task_id=task.id,
            name=task.name,
            author_id=task.author_id,
            workspace_id=workspace.id,
            workspace_reference=workspace.name,
            author_reference=sent["author"],
            workload_id=experiment.id,
            workload_created=experiment.created,
            container_spec=task.container_spec,
            system_details=task.system_details,
            status=pb2.JobStatus(status=Status.STATUS_QUEUED, created=now()),
            retry_ancestor_id=None if previous is None else previous.id,
            budget_id=sent["budget_id"],
        )
        self._mount_results(experiment, task, job)
        job.assignment_details.result_dataset_id = self._result_dataset(job).id
        self.say(job, "created", "Job created")
        return self._store.jobs.put(job)

    def schedule(self, job: pb2.Job, node: pb2.Node, gpus: list[str], slots: int) -> None:
        """Give the job its node."""
        request, details = job.container_spec.resource_request, job.assignment_details
        details.node_id = node.id
        details.occupied_slots_count = slots
        share = slots / max(1, node.node_resources.slot_details.slot_count)
        details.resource_assignment.CopyFrom(
            pb2.ResourceAssignment(
                cpu_count=request.cpu_count or max(1.0, float(int(node.node_resources.cpu_count * share))),
                memory_bytes=request.memory_bytes or node.node_resources.memory_bytes,
                gpus=gpus,
                assigned_slots_count=slots,
            )
        )
        job.status.scheduled.CopyFrom(now())
        job.status.ready.CopyFrom(now())
        job.status.status = Status.STATUS_READY_TO_START
        self.say(job, "scheduled", f"Job scheduled on node {node.hostname}")
        self._store.jobs.put(job)

    def cancel(self, job: pb2.Job, code: pb2.CancelationCode, why: str) -> None:
        """Stop the job for `why`. Nothing for one that is ended or being stopped."""
        if job.status.HasField("finalized") or job.status.HasField("canceled"):
            return
        is_launched = job.status.status in LAUNCHED
        job.status.canceled.CopyFrom(now())
        job.status.canceled_code = code
        job.status.canceled_for = why
        job.status.status = Status.STATUS_STOPPING
        self.say(job, "canceled", why)
        self._store.jobs.put(job)
        if is_launched:
            self._runner.stop(job.id)
        else:
            self._close(job)

    def preempt(self, job: pb2.Job, code: pb2.CancelationCode, why: str) -> None:
        """Take the node from the job, and from its siblings where the spec says so."""
        if job.status.HasField("finalized"):
            raise InvalidRequest(f"job {job.id!r} has ended")
        self.cancel(job, code, why)
        if job.system_details.propagate_preemption:
            for sibling in self._siblings(job):
                self.cancel(
                    sibling, Code.CANCELATION_CODE_SIBLING_TASK_PREEMPTION, f"sibling job {job.id} was preempted"
                )

    def lose_node(self, node: pb2.Node) -> list[pb2.Job]:
        """The machine is gone, and everything on it. Returns its jobs."""
        node.cordon_details.cordoned.CopyFrom(now())
        node.cordon_details.cordon_reason = "lost"
        lost = [job for job in self._store.jobs.active() if job.assignment_details.node_id == node.id]
        for job in lost:
            is_launched = job.status.status in LAUNCHED
            self.cancel(job, Code.CANCELATION_CODE_NODE_UNAVAILABLE, f"node {node.hostname} became unavailable")
            if is_launched:
                self._runner.kill(job.id)
        return lost

    def fail(self, job: pb2.Job, message: str) -> None:
        """The job never ran."""
        job.status.failed.CopyFrom(now())
        job.status.message = message
        self._close(job)

    def end(self, job: pb2.Job, report: Report) -> None:
        """The task has ended on its node."""
        status = job.status
        status.exited.CopyFrom(now())
        if report.exit_code is not None:
            status.exit_code = report.exit_code
        if report.out_of_memory:
            limit = job.container_spec.resource_request.memory_bytes
            status.message = f"OOMKilled: the container used more memory than its limit of {limit} bytes"
        elif report.problem:
            status.message = report.problem
        if report.exit_code != 0 and not status.HasField("canceled"):
            status.failed.CopyFrom(now())
        status.status = Status.STATUS_UPLOADING_RESULTS
        self._close(job)

    def say(self, job: pb2.Job, status: str, message: str) -> None:
        """Write down an event of the job."""
        event: dict[str, Any] = {"id": new_id(), "time_ns": now().ToNanoseconds(), "status": status, "message": message}
        self._store.events.put(job.id, [*self._store.events.get(job.id, []), event])

    def restart(self, experiment: pb2.Experiment) -> None:
        """New jobs for every task that failed or was canceled."""
        experiment.ClearField("canceled")
        experiment.ClearField("canceled_for")
        for task in experiment.tasks:
            latest = self._store.latest_job(task.id)
            if latest is None:
                task.status = Status.STATUS_SUBMITTED
            elif latest.status.status in (Status.STATUS_FAILED, Status.STATUS_CANCELED):
                self.create_job(experiment, task, latest)
        self._store.experiments.put(experiment)

    def cancel_experiment(self, experiment: pb2.Experiment, why: str) -> None:
        """Every job of it, and no new ones."""
        if not experiment.HasField("canceled"):
            experiment.canceled.CopyFrom(now())
            experiment.canceled_for = why
        for task in experiment.tasks:
            latest = self._store.latest_job(task.id)
            if latest is not None:
                self.cancel(latest, Code.CANCELATION_CODE_MANUAL, why)
            elif task.status == Status.STATUS_SUBMITTED:
                task.status = Status.STATUS_CANCELED
        self._store.experiments.put(experiment)

    def _close(self, job: pb2.Job) -> None:
        """The last word on a job, and what follows from it."""
        status = job.status
        status.status = _verdict(status)
        self._commit_results(job)
        status.finalized.CopyFrom(now())
        self.say(job, "finalized", Status.Name(status.status).removeprefix("STATUS_").lower())
        self._store.jobs.put(job)
        self._follow_up(job)

    def _follow_up(self, job: pb2.Job) -> None:
        experiment, task = self._store.task(job.task_id)
        if experiment.HasField("canceled") or job.status.status == Status.STATUS_SUCCEEDED:
            return
        code = job.status.canceled_code if job.status.HasField("canceled") else None
        if code is None or code in _AS_FAILED:
            self._after_failure(experiment, task, job, code)
        elif code in _PREEMPTED and job.system_details.auto_resume:
            self.create_job(experiment, task, job)
            if job.system_details.propagate_preemption:
                self._start_again(experiment, self._siblings(job))
        elif code == Code.CANCELATION_CODE_SIBLING_TASK_RETRY:
            self.create_job(experiment, task, job)

    def _after_failure(
        self, experiment: pb2.Experiment, task: pb2.Task, job: pb2.Job, code: pb2.CancelationCode | None
    ) -> None:
        resumes = code == Code.CANCELATION_CODE_NODE_UNAVAILABLE and job.system_details.auto_resume
        again = resumes or (code != Code.CANCELATION_CODE_TIMEOUT and self._has_retry(experiment, task))
        if again:
            self.create_job(experiment, task, job)
        if not job.system_details.propagate_failure:
            return
        siblings = self._siblings(job)
        sibling_code = Code.CANCELATION_CODE_SIBLING_TASK_RETRY if again else Code.CANCELATION_CODE_SIBLING_TASK_FAILED
        for sibling in siblings:
            self.cancel(sibling, sibling_code, f"sibling task {task.id} {'is retried' if again else 'failed'}")
        if again:
            self._start_again(experiment, siblings)

    def _start_again(self, experiment: pb2.Experiment, siblings: list[pb2.Job]) -> None:
        """Replicas that had succeeded: those that run again would wait for them in vain."""
        for sibling in siblings:
            if sibling.status.status == Status.STATUS_SUCCEEDED:
                _, task = self._store.task(sibling.task_id)
                self.create_job(experiment, task, sibling)

    def _has_retry(self, experiment: pb2.Experiment, task: pb2.Task) -> bool:
        retry = parsed_spec(self._store, experiment.id).retry
        allowed = retry.allowed_task_retries if retry is not None else None
        failures = sum(1 for job in self._store.jobs.of_task(task.id) if _counts_as_failure(job))
        return failures <= (allowed or 0)

    def _siblings(self, job: pb2.Job) -> list[pb2.Job]:
        """The latest jobs of the other replicas."""
        group_id = job.system_details.replica_group_details.id
        experiment = self._store.experiments.get(job.workload_id)
        others = [
            self._store.latest_job(task.id)
            for task in experiment.tasks
            if group_id and task.id != job.task_id and task.system_details.replica_group_details.id == group_id
        ]
        return [other for other in others if other is not None]

    def _mount_results(self, experiment: pb2.Experiment, task: pb2.Task, job: pb2.Job) -> None:
        """Mounts of other tasks' results become mounts of the datasets that they made."""
        mine = task_spec(self._store, experiment, task)
        for mount, message in zip(mine.datasets or (), job.container_spec.mounts, strict=True):
            if mount.source.result is None:
                continue
            needed = next(other for other in experiment.tasks if other.name == mount.source.result)
            latest = self._store.latest_job(needed.id)
            assert latest is not None, "a job is made when the tasks it needs have ended"
            message.dataset_id = latest.assignment_details.result_dataset_id

    def _result_dataset(self, job: pb2.Job) -> pb2.Dataset:
        dataset = pb2.Dataset(
            id=new_id(),
            name=new_name(),
            author_id=job.author_id,
            workspace_id=job.workspace_id,
            created=now(),
            source_execution=job.id,
            budget_id=job.budget_id,
        )
        dataset.full_name = dataset.id
        self._store.dataset_files(dataset.id).mkdir(parents=True)
        return self._store.datasets.put(dataset)

    def _commit_results(self, job: pb2.Job) -> None:
        dataset_id = job.assignment_details.result_dataset_id
        if dataset_id not in self._store.datasets:
            return
        dataset = self._store.datasets.get(dataset_id)
        dataset.committed.CopyFrom(now())
        self._store.datasets.put(dataset)
        with suppress(OSError, ValueError, json_format.ParseError):
            found = json.loads((self._store.dataset_files(dataset_id) / _METRICS_FILE).read_text())
            json_format.ParseDict(found, job.metrics)


def _verdict(status: pb2.JobStatus) -> pb2.WorkloadStatus:
    if status.HasField("canceled"):
        return Status.STATUS_CANCELED
    return Status.STATUS_FAILED if status.HasField("failed") else Status.STATUS_SUCCEEDED


def _counts_as_failure(job: pb2.Job) -> bool:
    if job.status.HasField("canceled"):
        return job.status.canceled_code == Code.CANCELATION_CODE_NODE_UNAVAILABLE and not job.system_details.auto_resume
    return job.status.status == Status.STATUS_FAILED
