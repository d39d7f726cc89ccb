"""What `[cluster.options]` may hold for cluster `beaker`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tunewright.clusters.beaker.facts import ClusterFacts, MountText, is_named, read_tables, rows_for
from tunewright.contracts.spec import Spec

BeakerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]+)?$")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class BeakerOptions(Spec):
    """Where on Beaker a job runs, for whose money, with what storage, and what may interrupt it."""

    clusters: tuple[BeakerName, ...] = ()
    """Beaker clusters the job may start on, each `ORGANIZATION/NAME`. Give these or `hostnames`."""

    hostnames: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Machines the job may start on, instead of whole clusters."""

    workspace: BeakerName | None = None
    """`ORGANIZATION/NAME`. By default the one of Beaker's own configuration."""

    budget: BeakerName | None = None
    """Who pays. By default the workspace's budget."""

    priority: Literal["low", "normal", "high", "urgent", "immediate"] = "normal"
    """Who goes first."""

    min_runtime_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """How long a job runs before it may be preempted; 0: at any time. None: the cluster's rule."""

    auto_resume: bool | None = None
    """Whether a preempted job is started again by Beaker. None: yes where `min_runtime_seconds` is given."""

    preemptible: bool | None = None
    """The older flag for the two above, for servers that do not know them. Excludes them."""

    time_limit_seconds: Seconds | None = None
    """Beaker ends a job after this long. No limit by default."""

    gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs of each node. None: one for each process (`cluster.processes_per_node`); 0: none."""

    cpus: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Processor cores of each node. By default Beaker's share for its GPUs."""

    memory_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Memory of each node. Above it the job ends as out of memory. By default Beaker's share for its GPUs."""

    shm_gib: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """Most that `/dev/shm` may hold: data loaders and NCCL pass tensors there."""

    host_networking: bool = True
    """Use the machine's own network, which several nodes and InfiniBand need."""

    propagate_failure: bool = True
    """With several nodes: one that fails ends the others."""

    propagate_preemption: bool = True
    """With several nodes: one that is preempted takes the others with it, and they start again together."""

    synchronized_start_timeout_seconds: Seconds | None = None
    """With several nodes: the longest that the first waits for the last. None: as long as it takes."""

    rendezvous_port: int | None = Field(default=None, ge=1024, le=65535)
    """Where nodes meet. None: one out of the run's name, so that runs that share a machine do not meet each other."""

    mounts: tuple[MountText, ...] = ()
    """Storage, each `KIND:SOURCE:TARGET[:ro]`, KIND `weka`, `host`, `dataset`, `volume` or `secret`."""

    cluster_mounts: bool = True
    """Mount the shared storage that all the chosen clusters have by the table."""

    allow_slow_network: bool = False
    """Several nodes on clusters that the table says are not joined for it."""

    result_path: str = Field(default="/output", pattern=r"^/[^\x00]+$")
    """What the job writes here becomes its result dataset on Beaker."""

    image: BeakerName | None = None
    """A Beaker image, for a job whose environment is a PEX, or that has none. `environment.image` does otherwise."""

    image_from: Literal["auto", "upload", "registry"] = "auto"
    """Images of the environment: uploaded to Beaker, or pulled from their registry. `auto`: uploaded if only here."""

    python: str = Field(default="python3", min_length=1)
    """The Python 3.9 or later of the image that the start program runs with."""

    task_name: BeakerName = "main"
    """The task's name on Beaker's pages."""

    description: str | None = None
    """The experiment's description. By default the run's name and commit."""

    tags: tuple[Annotated[str, Field(pattern=r"^[^\s\[\]]+$")], ...] = ()
    """Words that the experiment is found by: they stand in its description, as `[word]`."""

    groups: tuple[BeakerName, ...] = ()
    """Experiment groups to put it into; made in the workspace where they are not there."""

    user_secrets: bool = True
    """A secret NAME is `USER_NAME` where the workspace has that, else NAME. False: NAME."""

    clusters_file: str | None = Field(default=None, min_length=1)
    """A TOML file with more rows for the table of clusters, read before the plan is made."""

    cluster_facts: dict[str, ClusterFacts] = {}
    """Rows of the table, filled in for the chosen clusters so that the record has them. What is written here counts."""

    @model_validator(mode="before")
    @classmethod
    def _with_facts(cls, values: Any) -> Any:
        """The rows of the chosen clusters become part of the options: a plan reads no file."""
        if not isinstance(values, Mapping):
            return values
        clusters, hostnames = (_texts(values.get(name)) for name in ("clusters", "hostnames"))
        given = values.get("cluster_facts", {})
        more = values.get("clusters_file")
        if not isinstance(given, Mapping) or not isinstance(more, str | None):
            return values
        missing = [cluster for cluster in clusters if cluster not in given]
        if not missing and not (hostnames and not given):
            return values
        found = rows_for(missing, hostnames if not given else (), read_tables(more))
        return {**values, "cluster_facts": {**found, **given}}

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> BeakerOptions:
        if self.preemptible is not None and (self.min_runtime_seconds is not None or self.auto_resume is not None):
            raise ValueError(
                "preemptible is the older word for min_runtime_seconds and auto_resume: give one or the other"
            )
        if self.clusters and self.hostnames:
            raise ValueError("give clusters or hostnames: a machine is in one cluster already")
        return self

    @property
    def chosen_facts(self) -> dict[str, ClusterFacts]:
        """The rows of the chosen clusters, by their names. Those that the table does not have are left out."""
        if self.clusters:
            return {name: self.cluster_facts[name] for name in self.clusters if name in self.cluster_facts}
        rows = self.cluster_facts.items()
        return {name: row for name, row in rows if any(is_named(host, row.hostnames) for host in self.hostnames)}

    @property
    def are_all_known(self) -> bool:
        """Whether the table has a row for each place: what it does not know may lack what the others have."""
        rows = self.chosen_facts
        hosts_known = all(any(is_named(host, row.hostnames) for row in rows.values()) for host in self.hostnames)
        return all(name in rows for name in self.clusters) and hosts_known


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(one for one in values if isinstance(one, str)) if isinstance(values, list | tuple) else ()
