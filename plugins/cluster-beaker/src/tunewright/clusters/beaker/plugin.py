"""Registers cluster `beaker`."""

from __future__ import annotations

from tunewright.contracts.clusters import Capability, ClusterInfo, ClusterRegistry
from tunewright.contracts.hookspecs import hookimpl


@hookimpl
def tunewright_register_clusters(register: ClusterRegistry) -> None:
    """Add `beaker`."""
    register.add(
        ClusterInfo(
            name="beaker",
            summary="experiments of Beaker, a replica per node, on the clusters and with the storage of a table",
            entry="tunewright.clusters.beaker.backend:BeakerCluster",
            options_type="tunewright.clusters.beaker.options:BeakerOptions",
            api=1,
            capabilities=frozenset(
                {
                    Capability.IMAGES,
                    Capability.MEMORY_LIMIT,
                    Capability.MOUNTS,
                    Capability.MULTINODE,
                    Capability.PEX,
                    Capability.PREEMPT_SIGNAL,
                    Capability.RETRIES,
                    Capability.SECRETS,
                    Capability.URL,
                }
            ),
        )
    )
