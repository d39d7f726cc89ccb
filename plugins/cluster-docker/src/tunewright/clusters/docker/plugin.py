"""Registers cluster `docker`."""

from __future__ import annotations

from tunewright.contracts.clusters import Capability, ClusterInfo, ClusterRegistry
from tunewright.contracts.hookspecs import hookimpl


@hookimpl
def tunewright_register_clusters(register: ClusterRegistry) -> None:
    """Add `docker`."""
    register.add(
        ClusterInfo(
            name="docker",
            summary="containers of this machine's Docker, one per node, from an image by digest",
            entry="tunewright.clusters.docker.backend:DockerCluster",
            options_type="tunewright.clusters.docker.options:DockerOptions",
            api=1,
            capabilities=frozenset(
                {
                    Capability.IMAGES,
                    Capability.MEMORY_LIMIT,
                    Capability.MOUNTS,
                    Capability.MULTINODE,
                    Capability.RETRIES,
                    Capability.SECRETS,
                }
            ),
        )
    )
