"""The loop that makes jobs of tasks, gives jobs nodes, starts them and watches them end."""

from __future__ import annotations

import logging
import threading

from beaker import beaker_pb2 as pb2

from tunewright.beaker_emulator.launches import Phase, Runner
from tunewright.beaker_emulator.lifecycle import LAUNCHED, Code, Lifecycle, Status
from tunewright.beaker_emulator.moments import now, seconds_since
from tunewright.beaker_emulator.organization import Organization
from tunewright.beaker_emulator.placement import (
    Occupied,
    choose_node,
    choose_victims,
    could_run,
    queue_order,
    shape_of,
    slots_of,
)
from tunewright.beaker_emulator.preparation import Preparation
from tunewright.beaker_emulator.store import Store
from tunewright.beaker_emulator.submission import task_spec

_TICK_SECONDS = 0.05
_IDLE_SECONDS = 1.0
_log = logging.getLogger(__name__)


class Scheduler:
    """Owns the thread that changes jobs by itself; calls change them from theirs, under the same lock."""

    def __init__(self, store: Store, organization: Organization, runner: Runner, lifecycle: Lifecycle) -> None:
        self._store = store
        self._organization = organization
        self._runner = runner
        self._lifecycle = lifecycle
        self._preparation = Preparation(store, organization)
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._loop, name="scheduler", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End the loop. Jobs are the runner's to end."""
        self._stopped = True
        self._wake.set()
        self._thread.join()

    def wake(self) -> None:
        """Something has changed: do not wait for the next round."""
        self._wake.set()

    def tick(self) -> bool:
        """One round. Whether there is anything to watch."""
        with self._store.lock:
            for job in self._store.jobs.active():
                self._watch(job)
            self._release_tasks()
            self._place()
            return bool(self._store.jobs.active())

    def _loop(self) -> None:
        while not self._stopped:
            try:
                busy = self.tick()
            except Exception:
                _log.exception("the scheduler stumbled")
                busy = True
            self._wake.wait(_TICK_SECONDS if busy else _IDLE_SECONDS)
            self._wake.clear()

    def _watch(self, job: pb2.Job) -> None:
        if job.status.status == Status.STATUS_READY_TO_START:
            self._start_when_ready(job)
        if job.status.status not in LAUNCHED:
            return
        report = self._runner.report(job.id)
        if report.phase is not Phase.STARTING and not job.status.HasField("started") and report.exit_code is not None:
            self._note_start(job)
        if report.phase is Phase.RUNNING:
            if not job.status.HasField("started"):
                self._note_start(job)
            self._check_timeout(job)
        elif report.phase is Phase.ENDED:
            self._lifecycle.end(job, report)
            self._preparation.tidy(job)

    def _note_start(self, job: pb2.Job) -> None:
        job.status.started.CopyFrom(now())
        if not job.status.HasField("canceled"):
            job.status.status = Status.STATUS_RUNNING
        self._lifecycle.say(job, "started", "Job started")
        self._store.jobs.put(job)

    def _check_timeout(self, job: pb2.Job) -> None:
        details = job.system_details
        if details.HasField("timeout") and seconds_since(job.status.started) > details.timeout.ToNanoseconds() / 1e9:
            limit = details.timeout.ToNanoseconds() / 1e9
            self._lifecycle.cancel(job, Code.CANCELATION_CODE_TIMEOUT, f"exceeded its timeout of {limit:g} s")

    def _release_tasks(self) -> None:
        """First jobs of tasks whose needed results are there."""
        for experiment in self._store.experiments:
            if experiment.HasField("canceled"):
                continue
            for task in experiment.tasks:
                if task.status == Status.STATUS_SUBMITTED:
                    self._release(experiment, task)

    def _release(self, experiment: pb2.Experiment, task: pb2.Task) -> None:
        """`task.status` tells of tasks without a job only: SUBMITTED waits, CANCELED never will run."""
        if self._store.latest_job(task.id) is None:
            verdicts = self._verdicts(experiment, task_spec(self._store, experiment, task).needs)
            if any(verdict in (Status.STATUS_FAILED, Status.STATUS_CANCELED) for verdict in verdicts):
                task.status = Status.STATUS_CANCELED
            elif all(verdict == Status.STATUS_SUCCEEDED for verdict in verdicts):
                self._lifecycle.create_job(experiment, task)
                task.status = Status.STATUS_QUEUED
            else:
                return
        else:
            task.status = Status.STATUS_QUEUED
        self._store.experiments.put(experiment)

    def _verdicts(self, experiment: pb2.Experiment, names: list[str]) -> list[pb2.WorkloadStatus]:
        needed = [task for task in experiment.tasks if task.name in names]
        latest = [(task, self._store.latest_job(task.id)) for task in needed]
        return [task.status if job is None else job.status.status for task, job in latest]

    def _place(self) -> None:
        queue = [job for job in self._store.jobs.active() if job.status.status == Status.STATUS_QUEUED]
        nodes = self._nodes() if queue else []
        hopeless: set[bytes] = set()
        for job in sorted(queue, key=queue_order):
            if (shape := shape_of(job)) in hopeless:
                continue
            if not self._place_one(job, nodes):
                hopeless.add(shape)
            else:
                nodes = self._nodes()

    def _place_one(self, job: pb2.Job, nodes: list[Occupied]) -> bool:
        """Whether anything has changed: the job has a node, or never will."""
        if not any(could_run(job, node.node) for node in nodes):
            why = "no node that the job may use has what it needs"
            self._lifecycle.cancel(job, Code.CANCELATION_CODE_IMPOSSIBLE_TO_SCHEDULE, why)
            return True
        chosen = choose_node(job, nodes)
        if chosen is None:
            self._make_room(job, nodes)
            return False
        gpus = chosen.free_gpus[: job.container_spec.resource_request.gpu_count]
        self._lifecycle.schedule(job, chosen.node.message, gpus, slots_of(job))
        self._start_when_ready(job)
        return True

    def _make_room(self, job: pb2.Job, nodes: list[Occupied]) -> None:
        job.status.failed_scheduling_message = "no free slots on the nodes that the job may use"
        for victim in choose_victims(job, nodes):
            self._lifecycle.preempt(
                victim, Code.CANCELATION_CODE_SYSTEM_PREEMPTION, f"preempted by job {job.id} of higher priority"
            )

    def _nodes(self) -> list[Occupied]:
        held = [job for job in self._store.jobs.active() if job.status.HasField("scheduled")]
        return [
            Occupied(node, tuple(job for job in held if job.assignment_details.node_id == node_id))
            for node_id, node in self._organization.nodes.items()
        ]

    def _start_when_ready(self, job: pb2.Job) -> None:
        """Replicas may have to wait for their leader to have a node, or for all of them to have one."""
        group = job.system_details.replica_group_details
        replicas = [self._store.latest_job(task.id) for task in self._group(job)]
        placed = [other for other in replicas if other is not None and _has_place(other)]
        if group.HasField("synchronized_start_timeout") and len(placed) < len(replicas):
            if seconds_since(job.status.ready) > group.synchronized_start_timeout.ToNanoseconds() / 1e9:
                waited = group.synchronized_start_timeout.ToNanoseconds() / 1e9
                self._lifecycle.fail(
                    job, f"synchronized start timed out after {waited:g} s: not all replicas got a node"
                )
            return
        leader = None
        if group.HasField("is_leader_replica"):
            leader = next((one for one in placed if one.system_details.replica_group_details.is_leader_replica), None)
            if leader is None:
                return
        self._launch(job, leader)

    def _group(self, job: pb2.Job) -> list[pb2.Task]:
        group_id = job.system_details.replica_group_details.id
        experiment = self._store.experiments.get(job.workload_id)
        return [
            task for task in experiment.tasks if group_id and task.system_details.replica_group_details.id == group_id
        ]

    def _launch(self, job: pb2.Job, leader: pb2.Job | None) -> None:
        try:
            launch = self._preparation.prepare(job, leader)
        except OSError as error:
            self._lifecycle.fail(job, f"cannot start: {error}")
            return
        job.status.status = Status.STATUS_INITIALIZING
        self._store.jobs.put(job)
        self._runner.start(launch)


def _has_place(job: pb2.Job) -> bool:
    return job.status.HasField("scheduled") and not job.status.HasField("canceled")
