"""What `[cluster.options]` may hold for cluster `sagemaker`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tunewright.contracts.spec import Spec

_S3_URI = r"^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?$"
_TAG = r"^[\w .:/=+@-]*$"

NetworkId = Annotated[str, Field(pattern=r"^[-0-9a-zA-Z]{1,32}$")]
TagKey = Annotated[str, Field(pattern=_TAG, min_length=1, max_length=128)]
TagValue = Annotated[str, Field(pattern=_TAG, max_length=256)]


class Channel(Spec):
    """`[[cluster.options.channels]]`: storage that SageMaker puts into the job, at `/opt/ml/input/data/<name>`."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """The channel's name."""

    s3_uri: str | None = Field(default=None, pattern=_S3_URI, max_length=1024)
    """Everything below this prefix. Excludes `file_system_id`."""

    fast_file: bool = False
    """With `s3_uri`: read files when they are opened, instead of copying all of them before the start."""

    file_system_id: str | None = Field(default=None, pattern=r"^fs-[0-9a-f]{8,18}$")
    """A file system that the nodes share. It needs `subnets` and `security_group_ids`."""

    file_system_type: Literal["EFS", "FSxLustre"] = "FSxLustre"
    """What kind of file system that is."""

    directory: str = Field(default="/", pattern=r"^/", max_length=4096)
    """With `file_system_id`: the directory of it."""

    writable: bool = False
    """With `file_system_id`: the job may write to it."""

    at: str | None = Field(default=None, pattern=r"^/.+$")
    """A path at which the job finds the channel too: where this machine has the same files, or the mounted home."""

    @model_validator(mode="after")
    def _has_one_source(self) -> Channel:
        if (self.s3_uri is None) == (self.file_system_id is None):
            raise ValueError("give one of `s3_uri` and `file_system_id`: where the files are")
        if self.at is not None and (".." in self.at.split("/") or not self.at.strip("/")):
            raise ValueError(f"`at` must be an absolute path without `..` and not `/`, got {self.at!r}")
        return self


class SageMakerOptions(Spec):
    """A training job's machines, storage, network and limits."""

    role_arn: str = Field(pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@/-]+$", max_length=2048)
    """The role that the job runs as: it reads the image, the channels and secrets, and writes to `output_s3_uri`."""

    output_s3_uri: str = Field(pattern=_S3_URI, max_length=900)
    """Where the run's files go: `<output_s3_uri>/<run>/run/`, all the time while the job runs."""

    instance_type: str = Field(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")
    """The kind of each node, such as `ml.g5.xlarge`."""

    region: str | None = Field(default=None, pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")
    """The region. By default the one that your AWS configuration says."""

    image: str | None = Field(default=None, min_length=1, max_length=255)
    """The image of a job whose experiment names none (`environment.kind = "image"` does). Only conformance needs it."""

    python: str = Field(default="python3", min_length=1, max_length=256)
    """Python 3.8 or later in the image, for the start program. With secrets it must have botocore."""

    volume_gb: int = Field(default=100, ge=1)
    """Disk of each node, in GB."""

    max_runtime_seconds: int = Field(default=86400, ge=1)
    """The job is ended as timed out after it has run this long. Your quota may allow less."""

    spot: bool = False
    """Take spare machines at a lower price: the job may be interrupted, and is started again."""

    max_wait_seconds: int | None = Field(default=None, ge=1)
    """With `spot`: the longest the job may take, waiting included. By default twice `max_runtime_seconds`."""

    keep_alive_seconds: int | None = Field(default=None, ge=1, le=21600)
    """Keep the machines this long after the job for the next one like it. They are paid for meanwhile."""

    subnets: tuple[NetworkId, ...] = Field(default=(), max_length=16)
    """Subnets of your VPC that the nodes are in. By default they are in SageMaker's own."""

    security_group_ids: tuple[NetworkId, ...] = Field(default=(), max_length=5)
    """Security groups of the nodes, with `subnets`. They must let the nodes reach each other."""

    encrypt_between_nodes: bool = False
    """Encrypt what several nodes send each other. It makes training slower."""

    channels: tuple[Channel, ...] = Field(default=(), max_length=20)
    """Storage that the job reads: S3 prefixes and file systems."""

    tags: dict[TagKey, TagValue] = Field(default_factory=dict, max_length=48)
    """Tags of the job, for who pays."""

    @model_validator(mode="after")
    def _waiting_goes_with_spot(self) -> SageMakerOptions:
        if self.max_wait_seconds is not None and not self.spot:
            raise ValueError("`max_wait_seconds` goes with `spot = true` only")
        if self.max_wait_seconds is not None and self.max_wait_seconds < self.max_runtime_seconds:
            raise ValueError(
                f"`max_wait_seconds` ({self.max_wait_seconds}) must not be below `max_runtime_seconds` "
                f"({self.max_runtime_seconds})"
            )
        if self.spot and self.keep_alive_seconds is not None:
            raise ValueError("`keep_alive_seconds` does not go with `spot`: SageMaker keeps no spot machines")
        return self

    @model_validator(mode="after")
    def _network_is_whole(self) -> SageMakerOptions:
        if bool(self.subnets) != bool(self.security_group_ids):
            raise ValueError("`subnets` and `security_group_ids` go together")
        if not self.subnets and any(channel.file_system_id for channel in self.channels):
            raise ValueError("a channel of a file system needs `subnets` and `security_group_ids` that reach it")
        names = [channel.name for channel in self.channels]
        if len(set(names)) < len(names):
            raise ValueError(f"each channel needs a name of its own, got {', '.join(names)}")
        return self
