"""Which node a job goes to, and which jobs make room for it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from beaker import beaker_pb2 as pb2

from tunewright.beaker_emulator.moments import seconds_since
from tunewright.beaker_emulator.organization import EmulatedNode

_CLUSTER = pb2.JobPlacementConstraintType.JOB_PLACEMENT_CONSTRAINT_TYPE_CLUSTER
_HOSTNAME = pb2.JobPlacementConstraintType.JOB_PLACEMENT_CONSTRAINT_TYPE_HOSTNAME


@dataclass(frozen=True)
class Occupied:
    """A node, and the jobs that hold slots of it."""

    node: EmulatedNode
    jobs: tuple[pb2.Job, ...]

    @property
    def free_slots(self) -> int:
        """What the next job can have."""
        return self.node.slots - sum(slots_of(job) for job in self.jobs)

    @property
    def slots_to_come(self) -> int:
        """Those, and what jobs hold that are being stopped."""
        return self.free_slots + sum(slots_of(job) for job in self.jobs if job.status.HasField("canceled"))

    @property
    def free_gpus(self) -> list[str]:
        """GPUs that no job has."""
        taken = {gpu for job in self.jobs for gpu in job.assignment_details.resource_assignment.gpus}
        return [gpu for gpu in self.node.message.node_resources.gpu_ids if gpu not in taken]


def slots_of(job: pb2.Job) -> int:
    """A slot for each GPU, one for a job without."""
    return max(1, job.container_spec.resource_request.gpu_count)


def queue_order(job: pb2.Job) -> tuple[int, int, str]:
    """Higher priority first; among equals the older workload, then the older job."""
    return -job.system_details.priority, job.workload_created.ToNanoseconds(), job.id


def shape_of(job: pb2.Job) -> bytes:
    """The same for jobs that are the same to the scheduler: where one finds no room, the next will not."""
    details = pb2.SystemDetails(
        priority=job.system_details.priority, placement_constraints=job.system_details.placement_constraints
    )
    request = job.container_spec.resource_request
    parts: list[bytes] = [message.SerializeToString(deterministic=True) for message in (request, details)]
    return b"/".join(parts)


def could_run(job: pb2.Job, node: EmulatedNode) -> bool:
    """Whether the job fits the node when that is empty, and may go there."""
    request, resources = job.container_spec.resource_request, node.message.node_resources
    fits = (
        request.gpu_count <= len(resources.gpu_ids)
        and slots_of(job) <= node.slots
        and request.cpu_count <= resources.cpu_count
        and request.memory_bytes <= resources.memory_bytes
    )
    return fits and all(_satisfies(node, constraint) for constraint in job.system_details.placement_constraints)


def choose_node(job: pb2.Job, nodes: Sequence[Occupied]) -> Occupied | None:
    """A node with room, one without another replica of the group before all others."""
    group_id = job.system_details.replica_group_details.id
    open_nodes = [
        node
        for node in nodes
        if could_run(job, node.node)
        and not node.node.message.HasField("cordon_details")
        and node.free_slots >= slots_of(job)
        and len(node.free_gpus) >= job.container_spec.resource_request.gpu_count
    ]
    return min(open_nodes, key=lambda node: _siblings(node.jobs, group_id), default=None)


def choose_victims(job: pb2.Job, nodes: Sequence[Occupied]) -> list[pb2.Job]:
    """Jobs of lower priority, of one node, that are preempted so that `job` fits there; none where none need be."""
    needed = slots_of(job)
    open_nodes = [
        node for node in nodes if could_run(job, node.node) and not node.node.message.HasField("cordon_details")
    ]
    if any(node.slots_to_come >= needed for node in open_nodes):
        return []  # room is on its way
    choices = [victims for node in open_nodes if (victims := _victims_of(job, node, needed))]
    return min(choices, key=lambda victims: (max(v.system_details.priority for v in victims), len(victims)), default=[])


def _victims_of(job: pb2.Job, node: Occupied, needed: int) -> list[pb2.Job]:
    yielding = [other for other in node.jobs if _may_be_preempted(other, job.system_details.priority)]
    yielding.sort(key=lambda other: (other.system_details.priority, -other.status.created.ToNanoseconds()))
    victims: list[pb2.Job] = []
    free = node.slots_to_come
    for other in yielding:
        if free >= needed:
            break
        victims.append(other)
        free += slots_of(other)
    return victims if free >= needed else []


def _may_be_preempted(job: pb2.Job, priority: int) -> bool:
    status, details = job.status, job.system_details
    if status.HasField("canceled") or details.priority >= priority or not details.HasField("min_runtime"):
        return False
    since = status.started if status.HasField("started") else status.scheduled
    minimum_seconds: float = details.min_runtime.ToNanoseconds() / 1e9
    return seconds_since(since) >= minimum_seconds


def _satisfies(node: EmulatedNode, constraint: pb2.JobPlacementConstraint) -> bool:
    if constraint.type == _CLUSTER:
        return node.cluster.id in constraint.values
    return constraint.type == _HOSTNAME and node.message.hostname in constraint.values


def _siblings(jobs: Iterable[pb2.Job], group_id: str) -> int:
    return sum(1 for job in jobs if group_id and job.system_details.replica_group_details.id == group_id)
