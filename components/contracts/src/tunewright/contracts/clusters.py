"""A place a job can run: what a cluster plugin registers, and the verbs it must have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from tunewright.contracts.jobs import JobHandle, JobSpec, SubmissionPlan
from tunewright.contracts.preflight import Finding
from tunewright.contracts.registry import Registry
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import JobStatus


class Capability(StrEnum):
    """What a cluster can do beyond the six verbs. Without it the core refuses in words, before anything is paid for."""

    MULTINODE = "multinode"
    """More than one node per job, with the rendezvous variables of `JobSpec`."""
    RETRIES = "retries"
    """Starts a failed job again up to `max_retries` times."""
    SECRETS = "secrets"
    """Fills in secrets by name."""
    MEMORY_LIMIT = "memory_limit"
    """Bounds memory and tells out-of-memory apart from other failures."""
    IMAGES = "images"
    """Runs container images."""
    PEX = "pex"
    """Runs a PEX from a path the nodes can read."""
    ARRAY = "array"
    """Many jobs in one submission: its cluster is an `ArrayCluster`. Elsewhere they are submitted one by one."""
    DEPENDS = "depends"
    """Starts a job once others have succeeded: its cluster is a `DependsCluster`. Elsewhere somebody waits for them."""
    PREEMPT_SIGNAL = "preempt_signal"
    """Warns a job before it takes it off its node."""
    MOUNTS = "mounts"
    """Mounts storage into the job."""
    URL = "url"
    """Has a page for the job: its cluster is a `PageCluster`."""


@runtime_checkable
class Cluster(Protocol):
    """The verbs. One object serves a whole command; it may keep a connection, opened no sooner than needed."""

    def check(self) -> Sequence[Finding]:
        """What is missing on this machine to use the cluster; empty where all is well.

        Called by `doctor` and by preflight. Offline, quick, and it imports nothing heavy.
        """

    def plan(self, job: JobSpec, options: Spec) -> SubmissionPlan:
        """Exactly what the cluster will get. Pure: no socket, file, subprocess, clock or randomness.

        Equal arguments give equal bytes. Secrets appear as references. `options` is what the plugin's own
        `options_type` made of `[cluster.options]`. Raises InvalidExperiment for what the cluster cannot do.
        """

    def submit(self, plan: SubmissionPlan, key: str) -> JobHandle:
        """Send what `plan` gave, and nothing else.

        Idempotent on `key`: a second call with the same key finds the first job, also from another process.
        Returns once the cluster has accepted. Raises SubmissionRefused or Unavailable.
        """

    def status(self, handles: Sequence[JobHandle]) -> Mapping[JobHandle, JobStatus]:
        """The state of each handle, in as few calls to the cluster as it allows.

        A job the cluster does not know is NOT_FOUND, never an exception.
        """

    def logs(self, handle: JobHandle, replica: int = 0, follow: bool = False, since: int = 0) -> Iterator[bytes]:
        """The exact bytes the job wrote on node `replica`, from byte `since` on, in pieces of any size.

        A last line without a newline is included. With `follow` it ends when the job has ended and every byte was
        given. A job without a log (yet) gives nothing.
        """

    def stop(self, handle: JobHandle) -> None:
        """End the whole process tree. Idempotent; an ended or unknown job is no error. Returns when it is asked for."""


@runtime_checkable
class DependsCluster(Cluster, Protocol):
    """What `Capability.DEPENDS` promises."""

    def submit_after(self, plan: SubmissionPlan, key: str, after: Sequence[JobHandle]) -> JobHandle:
        """`submit`, for a job that starts once every job of `after` has succeeded, which the cluster sees to.

        Until then it is QUEUED. Where one of them ends in another way, or is not there any more, it never starts: it
        ends as STOPPED with the cause DEPENDENCY. Handles of `after` are this cluster's own.
        """


@runtime_checkable
class ArrayCluster(Cluster, Protocol):
    """What `Capability.ARRAY` promises."""

    def largest_array(self, options: Spec) -> int:
        """How many jobs one array may have here. More of them are sent as several arrays."""

    def plan_array(self, jobs: Sequence[JobSpec], options: Spec, at_most: int | None) -> SubmissionPlan:
        """One plan for all of `jobs`, pure as `plan` is. At most `at_most` of them run at a time; None: no bound.

        The jobs differ in what each runs and in its run's directory. They ask for the same resources, retries and
        options: whoever calls sees to it.
        """

    def submit_array(self, plan: SubmissionPlan, key: str) -> Sequence[JobHandle]:
        """Send it: a handle for each job, in their order. Idempotent on `key`, as `submit` is."""


@runtime_checkable
class PageCluster(Cluster, Protocol):
    """What `Capability.URL` promises."""

    def url(self, handle: JobHandle) -> str | None:
        """The address of the job's page, without asking the cluster. None where it has none."""


@dataclass(frozen=True)
class ClusterInfo:
    """What a plugin registers: enough to list and check it, without importing what it runs on."""

    name: str
    """What users write in `cluster.name`."""

    summary: str
    """One line for `launcher plugins`."""

    entry: str
    """`package.module:Class`, imported when the cluster is chosen. Called without arguments, it gives a Cluster."""

    options_type: type[Spec] | str
    """Parses `[cluster.options]`; its fields and docstrings are the options' documentation.

    Better as `package.module:Class`: then it is imported when the cluster is chosen, not whenever plugins are found.
    """

    api: int
    """The contracts' `API_VERSION` the plugin was written for. Another one is reported, not run."""

    capabilities: frozenset[Capability] = field(default_factory=frozenset)
    """What it can do beyond the six verbs. What is not listed is refused in preflight, in words."""


class ClusterRegistry(Registry[ClusterInfo]):
    """Passed into `tunewright_register_clusters`."""

    noun = "cluster"
