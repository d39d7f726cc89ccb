"""What `[cluster.options]` may hold for cluster `docker`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tunewright.clusters.docker.mounts import parse_mount
from tunewright.contracts.spec import Spec


def _is_mount(text: str) -> str:
    parse_mount(text)
    return text


MountText = Annotated[str, AfterValidator(_is_mount)]
GpuId = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9:./-]*$")]


class DockerOptions(Spec):
    """Limits, devices and mounts of a job's containers."""

    image: str | None = Field(default=None, min_length=1)
    """The image of a job whose experiment names none (`environment.kind = "image"` does). Only conformance needs it."""

    memory_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Memory of each node, swap included. Above it the job ends as out of memory. No limit by default."""

    cpus: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Processor time of each node, in cores. No limit by default."""

    shm_gib: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """Most that `/dev/shm` may hold: data loaders and NCCL pass tensors there. What is used counts as memory."""

    gpus: Literal["none", "all"] | Annotated[int, Field(ge=1)] | Annotated[tuple[GpuId, ...], Field(min_length=1)] = (
        "none"
    )
    """GPUs: `none`, `all`, so many for each node, or a list of ids or indices, divided among the nodes."""

    network: Literal["private", "host", "none"] = "private"
    """`private`: nodes see each other and the outside; `host`: this machine's own (one node); `none`: no network."""

    mounts: tuple[MountText, ...] = ()
    """More directories or files, each `HOST:CONTAINER` or `HOST:CONTAINER:ro`, absolute. They must exist."""

    user: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$")
    """`UID` or `UID:GID` of the job's processes. By default the owner of the run's directory, as of its files."""

    time_limit_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The job is ended as timed out after this long, retries included. No limit by default."""

    stop_grace_seconds: float = Field(default=10.0, ge=0, allow_inf_nan=False)
    """Between SIGTERM and SIGKILL, when a job is stopped, its time is over, or another node of it has failed."""

    keep_containers: bool = False
    """Leave ended containers for `docker inspect` and `docker commit`. Nothing removes them then."""
