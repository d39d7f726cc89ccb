"""What `[cluster.options]` may hold for cluster `kubernetes`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tunewright.clusters.kubernetes.mounts import parse_mount
from tunewright.clusters.kubernetes.names import LABEL_KEY, LABEL_VALUE, SUBDOMAIN
from tunewright.clusters.kubernetes.tolerations import parse_toleration
from tunewright.contracts.spec import Spec


def _is_mount(text: str) -> str:
    parse_mount(text)
    return text


def _is_toleration(text: str) -> str:
    parse_toleration(text)
    return text


MountText = Annotated[str, AfterValidator(_is_mount)]
TolerationText = Annotated[str, AfterValidator(_is_toleration)]
ObjectName = Annotated[str, Field(pattern=SUBDOMAIN, max_length=253)]
LabelKey = Annotated[str, Field(pattern=LABEL_KEY, max_length=317)]
LabelValue = Annotated[str, Field(pattern=LABEL_VALUE, max_length=63)]


class KubernetesOptions(Spec):
    """Where the pods go, what they ask for, and what they see."""

    kubeconfig: str | None = Field(default=None, min_length=1)
    """The client's file of clusters and users. By default $KUBECONFIG, ~/.kube/config, or the pod this runs in."""

    context: str | None = Field(default=None, min_length=1)
    """A context of the kubeconfig. By default its current one."""

    namespace: str = Field(default="default", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)
    """The namespace of every object."""

    image: str | None = Field(default=None, min_length=1)
    """The image of a job whose experiment names none (`environment.kind = "image"` does). Only conformance needs it."""

    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When nodes fetch the image. Images have a digest: what is there is right."""

    image_pull_secrets: tuple[ObjectName, ...] = ()
    """Secrets of the namespace with the registry's credentials."""

    python: str = Field(default="python3", min_length=1)
    """A Python 3.8 or later in the image, for the program that starts the job in its pod."""

    render: Literal["job", "jobset", "trainjob"] = "job"
    """`job`: a batch/v1 Job; `jobset`: a JobSet; `trainjob`: a Kubeflow TrainJob. The last two need their operators."""

    runtime: ObjectName = "torch-distributed"
    """The ClusterTrainingRuntime of a TrainJob."""

    kueue_queue: LabelValue | None = Field(default=None, min_length=1)
    """A Kueue LocalQueue of the namespace: the job is made suspended, and Kueue lets it run."""

    memory_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Memory of each node: asked for, and its limit. Above it the job ends as out of memory. No limit by default."""

    cpus: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Cores of each node that are asked for. They are no limit: a limit would throttle data loaders."""

    gpus: int = Field(default=0, ge=0)
    """GPUs of each node."""

    gpu_resource: LabelKey = "nvidia.com/gpu"
    """The resource that GPUs are."""

    shm_gib: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """Most that `/dev/shm` may hold: data loaders and NCCL pass tensors there. What is used counts as memory."""

    mounts: tuple[MountText, ...] = ()
    """`claim:NAME[/SUB]:/TARGET[:ro]`, `secret:NAME:/TARGET`, `scratch:GIB:/TARGET` or `/NODE/PATH:/TARGET[:ro]`."""

    node_selector: dict[LabelKey, LabelValue] = {}
    """Labels that nodes must have."""

    tolerations: tuple[TolerationText, ...] = ()
    """Taints that do not matter: `KEY`, `KEY=VALUE`, `KEY:EFFECT` or `KEY=VALUE:EFFECT`."""

    node_loss_seconds: int = Field(default=60, ge=0)
    """How long an unreachable node may stay away before its pods are given up. Kubernetes's own default is 300."""

    priority_class: ObjectName | None = None
    """A PriorityClass of the cluster."""

    service_account: ObjectName | None = None
    """The pods' service account, its token and `KUBERNETES_*` included. By default they get none of these."""

    host_network: bool = False
    """The nodes' own network (RDMA without a device plugin). Two jobs on one node clash then."""

    user: str | None = Field(default=None, pattern=r"^[0-9]+(:[0-9]+)?$")
    """`UID` or `UID:GID` of the job's processes. By default the image's."""

    secret: ObjectName = "tunewright"
    """The Secret that has the keys of `[cluster.secrets]` that name no other one."""

    labels: dict[LabelKey, LabelValue] = {}
    """More labels of every object."""

    annotations: dict[LabelKey, str] = {}
    """More annotations of the job and its pods."""

    disruptions: Literal["count", "ignore"] = "count"
    """Whether evictions and preemptions use up `max_retries`, or start the job again without end."""

    time_limit_seconds: int | None = Field(default=None, gt=0)
    """The job is ended as timed out after this long, retries included. No limit by default."""

    stop_grace_seconds: int = Field(default=30, ge=1)
    """Between SIGTERM and SIGKILL: a stop, an eviction, the end of its time, another node that failed."""

    join_seconds: int = Field(default=3600, gt=0)
    """How long nodes wait for each other before an attempt counts as failed."""

    keep_seconds: int | None = Field(default=604_800, ge=0)
    """How long an ended job is kept. After it, `status` knows nothing of it. `null` is for ever; a week by default."""
