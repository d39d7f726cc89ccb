"""Calls about clusters and nodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from beaker import beaker_pb2 as pb2

from tunewright.beaker_emulator.call_group import CallGroup
from tunewright.beaker_emulator.moments import now
from tunewright.beaker_emulator.placement import slots_of


class FleetCalls(CallGroup):
    """Where jobs can run."""

    def GetCluster(self, request: pb2.GetClusterRequest, user: pb2.User) -> pb2.GetClusterResponse:
        """By its id."""
        cluster = self._organization.cluster(request.cluster_id)
        return pb2.GetClusterResponse(cluster=self._with_occupancy(cluster, request.include_cluster_occupancy))

    def ResolveClusterName(
        self, request: pb2.ResolveClusterNameRequest, user: pb2.User
    ) -> pb2.ResolveClusterNameResponse:
        """The id of a name or an alias."""
        cluster = self._organization.cluster(f"{request.owner_name}/{request.cluster_name}")
        return pb2.ResolveClusterNameResponse(cluster_id=cluster.id)

    def ListClusters(self, request: pb2.ListClustersRequest, user: pb2.User) -> pb2.ListClustersResponse:
        """All of the organization's."""

        def shown(opts: Any) -> Iterable[pb2.Cluster]:
            for cluster in self._in_organization(opts, self._organization.clusters):
                yield self._with_occupancy(cluster, opts.include_cluster_occupancy)

        rows, token = self._pages.of(request, shown)
        return pb2.ListClustersResponse(clusters=rows, next_page_token=token)

    def GetNode(self, request: pb2.GetNodeRequest, user: pb2.User) -> pb2.GetNodeResponse:
        """By its id."""
        return pb2.GetNodeResponse(node=self._organization.node(request.node_id).message)

    def ListNodes(self, request: pb2.ListNodesRequest, user: pb2.User) -> pb2.ListNodesResponse:
        """Those of a cluster, or all."""

        def matching(opts: Any) -> Iterable[pb2.Node]:
            nodes = (node.message for node in self._organization.nodes.values())
            for node in self._in_organization(opts, nodes):
                if not opts.HasField("cluster_id") or node.cluster_id == opts.cluster_id:
                    yield node

        rows, token = self._pages.of(request, matching)
        return pb2.ListNodesResponse(nodes=rows, next_page_token=token)

    def CordonNode(self, request: pb2.CordonNodeRequest, user: pb2.User) -> pb2.CordonNodeResponse:
        """No new jobs there, or new jobs again."""
        node = self._organization.node(request.node_id).message
        if request.desired_state == pb2.CordonNodeRequest.DesiredState.DESIRED_STATE_CORDONED:
            node.cordon_details.cordoned.CopyFrom(now())
            node.cordon_details.cordon_reason = request.cordon_reason
            node.cordon_details.cordon_agent_id = user.id
        else:
            node.ClearField("cordon_details")
        self._scheduler.wake()
        return pb2.CordonNodeResponse(node=node)

    def _with_occupancy(self, cluster: pb2.Cluster, is_asked: bool) -> pb2.Cluster:
        if not is_asked:
            return cluster
        shown = pb2.Cluster()
        shown.CopyFrom(cluster)
        for node_id, node in self._organization.nodes.items():
            if node.cluster.id != cluster.id:
                continue
            held = [job for job in self._store.jobs.active() if job.assignment_details.node_id == node_id]
            taken = sum(slots_of(job) for job in held)
            cordoned = node.slots if node.message.HasField("cordon_details") else 0
            counts = pb2.SlotCounts(
                total=node.slots, assigned=taken, occupied=taken, available=node.slots - taken, cordoned=cordoned
            )
            shown.cluster_occupancy.node_occupancies.add(
                node_id=node_id, running_jobs_count=len(held), slot_counts=counts
            )
        _add_up(shown.cluster_occupancy)
        return shown


def _add_up(occupancy: pb2.ClusterOccupancy) -> None:
    for node in occupancy.node_occupancies:
        occupancy.running_jobs_count += node.running_jobs_count
        for field in pb2.SlotCounts.DESCRIPTOR.fields_by_name:
            total = getattr(occupancy.slot_counts, field) + getattr(node.slot_counts, field)
            setattr(occupancy.slot_counts, field, total)
