"""The clusters, people and money of the emulated organisation, as a file tells them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from beaker import beaker_pb2 as pb2
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class FleetError(Exception):
    """A fleet file that cannot be used."""


class _Described(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NodeDescription(_Described):
    """One machine of a cluster."""

    hostname: str
    """What other replicas connect to: with the process runner it must lead to this machine."""

    cordoned: bool = False


class ClusterDescription(_Described):
    """Machines of one kind."""

    name: str
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    gpus: int = Field(default=0, ge=0)
    """GPUs of each node. Tasks are told of them; nothing is done to the real ones of this machine."""

    gpu_type: str | None = None
    """As in Beaker's `GpuType`, without its prefix: `NVIDIA_H100`."""

    cpus: int = Field(default=16, ge=1)
    memory_gib: float = Field(default=64, gt=0)
    slots: int | None = Field(default=None, ge=1)
    """How many jobs without GPUs a node takes at a time. A node with GPUs has one slot for each."""

    nodes: tuple[NodeDescription, ...] = Field(min_length=1)
    max_task_timeout_seconds: float | None = Field(default=None, gt=0)
    budgets: tuple[str, ...] = ()
    """Names of the budgets that may use it; none named: all."""

    @property
    def slots_per_node(self) -> int:
        """What the scheduler counts."""
        return self.gpus or self.slots or 4


class UserDescription(_Described):
    """Somebody with a token."""

    name: str
    token: str = Field(min_length=1)
    email: str = ""
    admin: bool = False


class WorkspaceDescription(_Described):
    """A workspace that is there from the start."""

    name: str
    budget: str | None = None
    writers: tuple[str, ...] = ()
    """Users that may change it; none named: all. Others may read."""

    maximum_priority: str | None = None


class Fleet(_Described):
    """All that is there before the first call. The first user is the one of the configuration file."""

    organization: str
    users: tuple[UserDescription, ...] = Field(min_length=1)
    budgets: tuple[str, ...] = ()
    workspaces: tuple[WorkspaceDescription, ...] = Field(min_length=1)
    clusters: tuple[ClusterDescription, ...] = Field(min_length=1)
    weka_buckets: tuple[str, ...] | None = None
    """Buckets that can be mounted; not given: any, made when first mounted."""

    @model_validator(mode="after")
    def _names_exist(self) -> Fleet:
        for workspace in self.workspaces:
            if workspace.budget is not None and workspace.budget not in self.budgets:
                raise ValueError(f"workspace {workspace.name!r}: no budget {workspace.budget!r} in `budgets`")
        for cluster in self.clusters:
            if cluster.gpu_type is not None and not gpu_is_known(cluster.gpu_type):
                raise ValueError(f"cluster {cluster.name!r}: Beaker knows no GPU {cluster.gpu_type!r}")
        hostnames = [node.hostname for cluster in self.clusters for node in cluster.nodes]
        if len(set(hostnames)) != len(hostnames):
            raise ValueError("two nodes have the same hostname")
        return self


def gpu_is_known(gpu_type: str) -> bool:
    """Whether Beaker has a word for it."""
    return f"GPU_TYPE_{gpu_type}" in dict(pb2.GpuType.items())


# Every address of 127.0.0.0/8 is this machine: replicas on different nodes reach each other, each by a name of its own.
DEFAULT_FLEET: dict[str, Any] = {
    "organization": "ai2",
    "users": [{"name": "tester", "token": "emulated-token", "email": "tester@example.org", "admin": True}],
    "budgets": ["oe-testing"],
    "workspaces": [{"name": "testing", "budget": "oe-testing"}],
    "clusters": [
        {
            "name": "gpus",
            "aliases": ["gpus-emulated"],
            "gpus": 8,
            "gpu_type": "NVIDIA_H100",
            "cpus": 128,
            "memory_gib": 1024,
            "nodes": [{"hostname": "127.0.1.1"}, {"hostname": "127.0.1.2"}],
        },
        {
            "name": "cpus",
            "slots": 8,
            "nodes": [{"hostname": f"127.0.2.{number}"} for number in (1, 2, 3, 4)],
        },
    ],
}
"""What is there where no file is given."""


def read_fleet(path: Path | None) -> Fleet:
    """The fleet of a YAML or JSON file, or the default one. FleetError tells what is wrong with it."""
    try:
        document = DEFAULT_FLEET if path is None else yaml.safe_load(path.read_text())
        return Fleet.model_validate(document)
    except (OSError, yaml.YAMLError) as error:
        raise FleetError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FleetError(f"{path or 'the default fleet'}: {where}: {first['msg']}") from error
