"""Registers cluster `slurm`."""

from __future__ import annotations

from tunewright.contracts.clusters import Capability, ClusterInfo, ClusterRegistry
from tunewright.contracts.hookspecs import hookimpl


@hookimpl
def tunewright_register_clusters(register: ClusterRegistry) -> None:
    """Add `slurm`."""
    register.add(
        ClusterInfo(
            name="slurm",
            summary="batch jobs of a Slurm cluster, from its login node or over SSH",
            entry="tunewright.clusters.slurm.backend:SlurmCluster",
            options_type="tunewright.clusters.slurm.options:SlurmOptions",
            api=1,
            capabilities=frozenset(
                {
                    Capability.ARRAY,
                    Capability.DEPENDS,
                    Capability.MEMORY_LIMIT,
                    Capability.MULTINODE,
                    Capability.PEX,
                    Capability.PREEMPT_SIGNAL,
                    Capability.RETRIES,
                    Capability.SECRETS,
                }
            ),
        )
    )
