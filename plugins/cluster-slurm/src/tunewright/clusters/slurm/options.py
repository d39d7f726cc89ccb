"""What `[cluster.options]` may hold for cluster `slurm`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tunewright.contracts.spec import Spec

_WORDS = r"^[^\x00-\x1f\x7f]+$"

Words = Annotated[str, Field(pattern=_WORDS)]
"""Text of one line, for an option of Slurm's."""


class SlurmOptions(Spec):
    """Where a job waits, what each of its nodes must have, how it ends, and how Slurm is reached."""

    ssh_host: str | None = Field(default=None, pattern=r"^[^-\s\x00-\x1f\x7f][^\s\x00-\x1f\x7f]*$")
    """Login node, `HOST` or `USER@HOST`, where Slurm's programs are. By default they are on this machine."""

    ssh_options: tuple[Words, ...] = ()
    """Arguments for `ssh` before the host, such as `-p`, `2222`. What `~/.ssh/config` says holds anyway."""

    python: Words = "python3"
    """A Python 3.8 or later on the login node and on each node: its name, or its path."""

    partition: Words | None = None
    """Partition, or several with commas between them. By default Slurm's own default."""

    account: Words | None = None
    """Account that the job is charged to."""

    qos: Words | None = None
    """Quality of service."""

    constraint: Words | None = None
    """Features that nodes must have, in Slurm's words: `a100&ib`."""

    gpus_per_node: int | None = Field(default=None, ge=1)
    """GPUs on each node. Needs nothing of `gres`."""

    gres: Words | None = None
    """Generic resources of each node, in Slurm's words: `gpu:a100:4`."""

    cpus_per_task: int | None = Field(default=None, ge=1)
    """Cores on each node: Tunewright starts one task a node, which starts the training processes."""

    memory_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Memory of each node. Above it the job ends as out of memory. The default of Slurm if unset."""

    time_limit_minutes: int | None = Field(default=None, ge=1)
    """The job is ended as timed out after this long; after a requeue it counts anew. The partition's if unset."""

    exclusive: bool = False
    """No other job on its nodes."""

    nodelist: Words | None = None
    """Nodes that must be among the job's, in Slurm's words: `node[01-04]`."""

    exclude: Words | None = None
    """Nodes that must not be."""

    reservation: Words | None = None
    """Reservation to run in."""

    max_array_size: int = Field(default=1001, ge=1)
    """Jobs of one array: `MaxArraySize` of `scontrol show config`. A larger sweep is sent as several arrays."""

    signal_before_end_seconds: int | None = Field(default=None, ge=1, le=65535)
    """SIGUSR1 so long before the time limit, so that the trainer saves a checkpoint and asks to be requeued."""

    requeue: bool | None = None
    """Whether preempted jobs and jobs of lost nodes start again: `true` always, unset up to `max_retries` times."""

    container: Literal["none", "pyxis", "apptainer"] = "none"
    """Run in a container: by the pyxis plugin of srun, or by `apptainer exec`. Not tried on a real one yet."""

    container_image: Words | None = None
    """Its image, in the words of what runs it: `nvcr.io#org/image:tag`, `/shared/image.sqsh`, `/shared/image.sif`."""

    container_mounts: tuple[Words, ...] = ()
    """More mounts, each `HOST:CONTAINER` or `HOST:CONTAINER:ro`. The run's directory is mounted anyway."""

    sbatch: tuple[Words, ...] = ()
    """More options of sbatch, each one whole: `--mail-type=END`. What other options here say, they may not."""

    srun: tuple[Words, ...] = ()
    """More options of the srun that starts the command: `--network=sn_all`."""
