"""Registers cluster `sagemaker`."""

from __future__ import annotations

from tunewright.contracts.clusters import Capability, ClusterInfo, ClusterRegistry
from tunewright.contracts.hookspecs import hookimpl


@hookimpl
def tunewright_register_clusters(register: ClusterRegistry) -> None:
    """Add `sagemaker`."""
    register.add(
        ClusterInfo(
            name="sagemaker",
            summary="training jobs of Amazon SageMaker, from an image of yours in ECR",
            entry="tunewright.clusters.sagemaker.backend:SageMakerCluster",
            options_type="tunewright.clusters.sagemaker.options:SageMakerOptions",
            api=1,
            capabilities=frozenset(
                {
                    Capability.IMAGES,
                    Capability.MOUNTS,
                    Capability.MULTINODE,
                    Capability.PREEMPT_SIGNAL,
                    Capability.RETRIES,
                    Capability.SECRETS,
                    Capability.URL,
                }
            ),
        )
    )
