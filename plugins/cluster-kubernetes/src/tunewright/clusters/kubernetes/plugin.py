"""Registers cluster `kubernetes`."""

from __future__ import annotations

from tunewright.contracts.clusters import Capability, ClusterInfo, ClusterRegistry
from tunewright.contracts.hookspecs import hookimpl


@hookimpl
def tunewright_register_clusters(register: ClusterRegistry) -> None:
    """Add `kubernetes`."""
    register.add(
        ClusterInfo(
            name="kubernetes",
            summary="pods of a Kubernetes cluster, one per node: Jobs, or JobSets and TrainJobs, also queued by Kueue",
            entry="tunewright.clusters.kubernetes.backend:KubernetesCluster",
            options_type="tunewright.clusters.kubernetes.options:KubernetesOptions",
            api=1,
            capabilities=frozenset(
                {
                    Capability.IMAGES,
                    Capability.MEMORY_LIMIT,
                    Capability.MOUNTS,
                    Capability.MULTINODE,
                    Capability.PREEMPT_SIGNAL,
                    Capability.RETRIES,
                    Capability.SECRETS,
                }
            ),
        )
    )
