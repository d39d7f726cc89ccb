"""What `[cluster.options]` may hold for cluster `local`."""

from __future__ import annotations

from pydantic import Field

from tunewright.contracts.spec import Spec


class LocalOptions(Spec):
    """Limits of a job on this machine."""

    memory_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Memory of the whole process tree. Above it the job ends as out of memory. No limit by default."""

    time_limit_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The job's tree is ended as timed out after this long, retries included. No limit by default."""

    stop_grace_seconds: float = Field(default=10.0, ge=0, allow_inf_nan=False)
    """Between SIGTERM and SIGKILL, when a job is stopped or its time is over."""
