"""What Beaker cannot do for a job, found before anything is sent. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tunewright.clusters.beaker.facts import shared_variables
from tunewright.clusters.beaker.mounts import Mount, clashes, holder_of
from tunewright.clusters.beaker.options import BeakerOptions
from tunewright.contracts.errors import Problem
from tunewright.contracts.job_problems import TOLD_VARIABLES, argument_problems, variable_problems
from tunewright.contracts.jobs import JobSpec

_LARGEST_ARGUMENT_BYTES = 128 * 1024 - 1


def problems_of(job: JobSpec, options: BeakerOptions, mounts: Sequence[Mount]) -> Iterator[Problem]:
    """Everything that is wrong, each at the field that asks for it."""
    if not options.clusters and not options.hostnames:
        hint = 'cluster.options.clusters = ["ai2/jupiter"]'
        yield Problem("cluster.options.clusters", "name the clusters or the hostnames the job may start on", hint)
    yield from _image_problems(job, options)
    yield from _argument_problems(job)
    yield from variable_problems(job, "experiment", _is_own)
    yield from _secret_problems(job)
    yield from _storage_problems(job, options, mounts)
    if job.resources.nodes > 1:
        yield from _node_problems(job, options)


def _image_problems(job: JobSpec, options: BeakerOptions) -> Iterator[Problem]:
    kind = job.environment.kind if job.environment else None
    if kind == "image" and options.image is not None:
        yield Problem("cluster.options.image", "the experiment's environment says the image", "remove this option")
    if kind == "pex" and options.image is None:
        message = "Beaker starts images: a PEX needs one with Python 3.11 to run in"
        yield Problem("cluster.options.image", message, 'name a Beaker image, or set environment.kind = "image"')
    if kind is None and options.image is None:
        hint = 'set environment.kind = "image", or this option where the job has no environment'
        yield Problem("cluster.options.image", "cluster `beaker` runs images, and the job names none", hint)
    is_local = job.environment is not None and "@sha256:" not in job.environment.reference
    if kind == "image" and options.image_from == "registry" and is_local:
        message = "the image is in no registry: `env-builder push` sends it to one"
        yield Problem("cluster.options.image_from", message, 'use "auto", which uploads it to Beaker')


def _argument_problems(job: JobSpec) -> Iterator[Problem]:
    yield from argument_problems(job)
    for number, argument in enumerate(job.command):
        if len(argument.encode()) > _LARGEST_ARGUMENT_BYTES:
            yield Problem(f"command[{number}]", f"an argument has at most {_LARGEST_ARGUMENT_BYTES} bytes on Linux")


def _is_own(variable: str) -> bool:
    return variable in TOLD_VARIABLES or variable.startswith("BEAKER_")


def _secret_problems(job: JobSpec) -> Iterator[Problem]:
    for variable, name in job.secrets.items():
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) and "\0" not in name:
            hint = "a name has letters, digits, `.`, `_` and `-`"
            yield Problem(f"cluster.secrets.{variable}", f"Beaker has no secrets called {name!r}", hint)


def _storage_problems(job: JobSpec, options: BeakerOptions, mounts: Sequence[Mount]) -> Iterator[Problem]:
    for earlier, later in clashes(mounts):
        message = f"{later.target} is where the job has {earlier.kind}:{earlier.source} already"
        yield Problem("cluster.options.mounts", message, "choose another target, or set cluster_mounts = false")
    for what, path, is_written in _paths(job):
        holder = holder_of(path, mounts)
        if holder is None:
            yield Problem("cluster.options.mounts", f"the nodes do not see {what}, {path}", _hint(options, mounts))
        elif is_written and not holder.is_writable:
            message = f"the nodes cannot write {what}, {path}: {holder.target} is read-only"
            yield Problem("cluster.options.mounts", message, "mount storage that can be written: weka, host or volume")


def _paths(job: JobSpec) -> Iterator[tuple[str, str, bool]]:
    """What the nodes must find at the same path as this machine, and whether they write it."""
    yield "the run's directory", job.run_dir, True
    for name, dataset in (("the dataset", job.dataset), ("the evaluation's dataset", job.evaluation_dataset)):
        if dataset and dataset.path.startswith("/"):
            yield name, dataset.path, False
    if job.model and job.model.name_or_path.startswith("/"):
        yield "the model", job.model.name_or_path, False
    if job.environment and job.environment.kind == "pex":
        yield "the PEX", job.environment.reference, False


def _hint(options: BeakerOptions, mounts: Sequence[Mount]) -> str:
    """What is mounted, and which of several clusters keeps the others' storage from being."""
    places = ", ".join(mount.target for mount in mounts) or "nothing"
    lacking = [cluster for cluster in options.clusters if not _has_storage(cluster, options)]
    mixed = f" ({', '.join(lacking)} shares no storage that is known of)" if lacking else ""
    return (
        f"mounted is {places}{mixed}; put TUNEWRIGHT_HOME on storage that the nodes have at the same path, and mount it"
    )


def _has_storage(cluster: str, options: BeakerOptions) -> bool:
    return cluster in options.cluster_facts and bool(options.cluster_facts[cluster].mounts)


def _node_problems(job: JobSpec, options: BeakerOptions) -> Iterator[Problem]:
    num_nodes = job.resources.nodes
    if not options.host_networking:
        message = f"{num_nodes} nodes find each other by their machines' names, got false"
        yield Problem("cluster.options.host_networking", message, "leave it out")
    slow = [name for name, row in options.chosen_facts.items() if row.interconnect is False]
    if slow and not options.allow_slow_network:
        message = f"{num_nodes} nodes, but {', '.join(slow)} has no network for it"
        yield Problem("cluster.nodes", message, "choose other clusters, or set cluster.options.allow_slow_network")
    rows = [row.multi_node_environment for row in options.chosen_facts.values()]
    for name in shared_variables(rows)[1]:
        if name not in job.variables:
            message = f"the chosen clusters want different values of {name}: one job cannot have both"
            yield Problem(
                "cluster.options.clusters", message, f"choose some of them, or set cluster.environment.{name}"
            )
