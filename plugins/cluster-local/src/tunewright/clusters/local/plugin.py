"""Registers cluster `local`."""

from __future__ import annotations

from tunewright.contracts.clusters import Capability, ClusterInfo, ClusterRegistry
from tunewright.contracts.hookspecs import hookimpl


@hookimpl
def tunewright_register_clusters(register: ClusterRegistry) -> None:
    """Add `local`."""
    register.add(
        ClusterInfo(
            name="local",
            summary="a process tree on this machine that outlives the launcher",
            entry="tunewright.clusters.local.backend:LocalCluster",
            options_type="tunewright.clusters.local.options:LocalOptions",
            api=1,
            capabilities=frozenset({Capability.PEX, Capability.RETRIES, Capability.SECRETS, Capability.MEMORY_LIMIT}),
        )
    )
