"""Who and what there is before the first call: users, budgets, clusters, nodes, with ids that stay the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from beaker import beaker_pb2 as pb2
from google.protobuf.timestamp_pb2 import Timestamp  # pants: no-infer-dep

from tunewright.beaker_emulator.fleet import ClusterDescription, Fleet, NodeDescription, WorkspaceDescription
from tunewright.beaker_emulator.identifiers import as_ulid
from tunewright.beaker_emulator.refusals import Forbidden, InvalidRequest, NotFound, Unauthenticated
from tunewright.beaker_emulator.store import Store

_FOUNDED = Timestamp(seconds=1_600_000_000)
_ADMIN = pb2.AuthRole.AUTH_ROLE_ADMIN
_SCIENTIST = pb2.AuthRole.AUTH_ROLE_SCIENTIST


@dataclass(frozen=True)
class EmulatedNode:
    """A node and the cluster it belongs to."""

    message: pb2.Node
    cluster: pb2.Cluster
    slots: int


class Organization:
    """The fleet in Beaker's own messages. Nothing here changes but cordons and nodes that are lost."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.message = pb2.Organization(
            id=_stable_id("org", fleet.organization),
            name=fleet.organization,
            display_name=fleet.organization,
            created=_FOUNDED,
        )
        self.users = {user.token: self._user(user.name, user.email, user.admin) for user in fleet.users}
        self.budgets = [self._budget(name) for name in fleet.budgets]
        self.clusters = [self._cluster(cluster) for cluster in fleet.clusters]
        self.nodes: dict[str, EmulatedNode] = {}
        for cluster, described in zip(self.clusters, fleet.clusters, strict=True):
            for node in described.nodes:
                message = _node(node, described, cluster.id)
                self.nodes[message.id] = EmulatedNode(message, cluster, described.slots_per_node)

    def user_of(self, token: str) -> pb2.User:
        """Whose token it is."""
        if token not in self.users:
            raise Unauthenticated("invalid token")
        return self.users[token]

    def user(self, user_id: str) -> pb2.User:
        """The user of this id or name."""
        return _named(self.users.values(), user_id, "user")

    def budget(self, reference: str) -> pb2.Budget:
        """The budget of this id or `organization/name`."""
        for budget in self.budgets:
            if reference in (budget.id, budget.full_name):
                return budget
        raise NotFound(f"budget {reference!r} not found")

    def cluster(self, reference: str) -> pb2.Cluster:
        """The cluster of this id, `organization/name` or `organization/alias`."""
        for cluster in self.clusters:
            names = (f"{self.message.name}/{name}" for name in (cluster.name, *cluster.aliases))
            if reference == cluster.id or reference in names:
                return cluster
        raise NotFound(f"cluster {reference!r} not found")

    def node(self, node_id: str) -> EmulatedNode:
        """The node of this id or hostname."""
        for node in self.nodes.values():
            if node_id in (node.message.id, node.message.hostname):
                return node
        raise NotFound(f"node {node_id!r} not found")

    def is_organization(self, reference: str) -> bool:
        """Whether it is this one, by id or name."""
        return reference in (self.message.id, self.message.name)

    def check_organization(self, reference: str) -> None:
        """NotFound for any other."""
        if not self.is_organization(reference):
            raise NotFound(f"organization {reference!r} not found")

    def found_workspaces(self, store: Store) -> None:
        """Make the workspaces of the fleet that are not there yet."""
        for described in self.fleet.workspaces:
            workspace_id = _stable_id("workspace", described.name)
            if workspace_id not in store.workspaces:
                store.workspaces.put(self._workspace(workspace_id, described))

    def check_writer(self, user: pb2.User, workspace: pb2.Workspace) -> None:
        """Forbidden for users that the fleet does not let write there."""
        for described in self.fleet.workspaces:
            if f"{self.message.name}/{described.name}" != workspace.name or not described.writers:
                continue
            if user.name not in described.writers:
                raise Forbidden(f"user {user.name!r} does not have permission to write to workspace {workspace.name!r}")

    def _workspace(self, workspace_id: str, described: WorkspaceDescription) -> pb2.Workspace:
        first = next(iter(self.users.values()))
        highest = described.maximum_priority or "immediate"
        if f"JOB_PRIORITY_{highest.upper()}" not in dict(pb2.JobPriority.items()):
            raise InvalidRequest(f"workspace {described.name!r}: no priority {highest!r}")
        return pb2.Workspace(
            id=workspace_id,
            name=f"{self.message.name}/{described.name}",
            created=_FOUNDED,
            modified=_FOUNDED,
            owner_org=self.message,
            author_user=first,
            budget_id=None if described.budget is None else self._budget(described.budget).id,
            maximum_workload_priority=pb2.JobPriority.Value(f"JOB_PRIORITY_{highest.upper()}"),
        )

    def _user(self, name: str, email: str, admin: bool) -> pb2.User:
        details = pb2.UserDetails(email=email, role=_ADMIN if admin else _SCIENTIST)
        return pb2.User(
            id=_stable_id("user", name), name=name, display_name=name, created=_FOUNDED, user_details=details
        )

    def _budget(self, name: str) -> pb2.Budget:
        return pb2.Budget(
            id=_stable_id("budget", name),
            name=name,
            full_name=f"{self.message.name}/{name}",
            organization_id=self.message.id,
            organization_name=self.message.name,
            created=_FOUNDED,
        )

    def _cluster(self, described: ClusterDescription) -> pb2.Cluster:
        cluster = pb2.Cluster(
            id=_stable_id("cluster", described.name),
            name=described.name,
            aliases=described.aliases,
            tags=described.tags,
            created=_FOUNDED,
            organization_id=self.message.id,
            organization_name=self.message.name,
            on_premise_details=pb2.OnPremiseClusterDetails(),
            node_shape=_shape(described),
            node_count=len(described.nodes),
            expected_node_count=len(described.nodes),
            budget_restrictions=[self._budget(name).id for name in described.budgets],
            scheduling_policy=pb2.ClusterSchedulingPolicy.CLUSTER_SCHEDULING_POLICY_EAGER_MIN_RUNTIMES,
        )
        if described.max_task_timeout_seconds is not None:
            cluster.max_task_timeout.FromNanoseconds(int(described.max_task_timeout_seconds * 1e9))
        return cluster


def _shape(described: ClusterDescription) -> pb2.NodeShape:
    return pb2.NodeShape(
        cpu_count=described.cpus,
        memory_bytes=int(described.memory_gib * (1 << 30)),
        gpu_count=described.gpus,
        gpu_type=_gpu_type(described),
    )


def _node(node: NodeDescription, described: ClusterDescription, cluster_id: str) -> pb2.Node:
    resources = pb2.NodeResources(
        cpu_count=described.cpus,
        memory_bytes=int(described.memory_gib * (1 << 30)),
        gpu_ids=[str(number) for number in range(described.gpus)],
        gpu_type=_gpu_type(described),
        slot_details=pb2.SlotDetails(slot_count=described.slots_per_node),
    )
    message = pb2.Node(
        id=_stable_id("node", node.hostname),
        hostname=node.hostname,
        cluster_id=cluster_id,
        created=_FOUNDED,
        node_resources=resources,
    )
    if node.cordoned:
        message.cordon_details.cordon_reason = "cordoned by the fleet file"
    return message


def _gpu_type(described: ClusterDescription) -> pb2.GpuType | None:
    return None if described.gpu_type is None else pb2.GpuType.Value(f"GPU_TYPE_{described.gpu_type}")


def _named(users: Iterable[pb2.User], reference: str, noun: str) -> pb2.User:
    for user in users:
        if reference in (user.id, user.name):
            return user
    raise NotFound(f"{noun} {reference!r} not found")


def _stable_id(kind: str, name: str) -> str:
    """In the form of a ULID, the same each time the server starts."""
    return as_ulid(int.from_bytes(hashlib.sha256(f"{kind}/{name}".encode()).digest()[:16], "big"))
