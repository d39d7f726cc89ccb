"""Jobs and options that plans are made of."""

from __future__ import annotations

from typing import Any

from tunewright.clusters.kubernetes.options import KubernetesOptions
from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.jobs import JobSpec

IMAGE = f"registry.example/trainer@sha256:{'a' * 64}"


def job(**fields: Any) -> JobSpec:
    """A job of an image, in a run's directory below /home."""
    environment = EnvironmentRef(kind="image", key="k", reference=IMAGE, command=("trainer",))
    own = {"run": "Run_1", "run_dir": "/home/runs/Run_1", "command": ("trainer", "train", "$(HOME) $$"), **fields}
    return JobSpec(**{"environment": environment, **own})


def options(**fields: Any) -> KubernetesOptions:
    """Options with a claim for /home."""
    return KubernetesOptions(**{"mounts": ("claim:home:/home",), **fields})
