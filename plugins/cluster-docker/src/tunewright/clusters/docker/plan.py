"""From a job to what Docker gets: a file for each container, and one for who looks after them. Pure.

A container's file is the body of the Engine's `POST /containers/create`. What only the submission knows stands in it in
angle brackets, alone in its place, and is put there by `supervision.containers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tunewright.clusters.docker import start_program
from tunewright.clusters.docker.mounts import clashes, mounts_of
from tunewright.clusters.docker.options import DockerOptions
from tunewright.clusters.docker.supervision.containers import ATTEMPT, ID, KEY, LABEL, NETWORK, OWNER
from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.files import json_text
from tunewright.contracts.job_problems import TOLD_VARIABLES, argument_problems, image_problems, variable_problems
from tunewright.contracts.jobs import JobSpec, PlannedFile, SubmissionPlan

PLAN_FILE = "docker.json"
MASTER_PORT = "29500"


def plan_containers(job: JobSpec, options: DockerOptions) -> SubmissionPlan:
    """The plan of `job`. Secrets stand in it by name. Raises InvalidExperiment for what Docker cannot do."""
    if problems := list(_problems(job, options)):
        raise InvalidExperiment.from_problems("cluster `docker`", problems)
    ranks = range(job.resources.nodes)
    files = [PlannedFile(name=PLAN_FILE, text=json_text(_plan_of_job(job, options)))]
    files += [PlannedFile(name=node_file(rank), text=json_text(_container(job, options, rank))) for rank in ranks]
    return SubmissionPlan(cluster="docker", run=job.run, files=tuple(files))


def node_file(rank: int) -> str:
    """The file with the container of node `rank`."""
    return f"node-{rank}.json"


def _plan_of_job(job: JobSpec, options: DockerOptions) -> dict[str, Any]:
    return {
        "run": job.run,
        "run_dir": job.run_dir,
        "nodes": [node_file(rank) for rank in range(job.resources.nodes)],
        "logs": [_log(job, rank) for rank in range(job.resources.nodes)],
        "network": {"Name": ID, "Driver": "bridge", "Labels": _labels(job)} if _has_network(job, options) else None,
        "secrets": dict(sorted(job.secrets.items())),
        "max_retries": job.max_retries,
        "time_limit_seconds": options.time_limit_seconds,
        "stop_grace_seconds": options.stop_grace_seconds,
        "memory_gib": options.memory_gib,
        "keep_containers": options.keep_containers,
    }


def _has_network(job: JobSpec, options: DockerOptions) -> bool:
    """One node needs no network of its own; there are only about thirty on a machine."""
    return job.resources.nodes > 1 and options.network == "private"


def _log(job: JobSpec, rank: int) -> str:
    return f"{job.run_dir}/logs/replica-{rank}.log"


def _container(job: JobSpec, options: DockerOptions, rank: int) -> dict[str, Any]:
    """The body of `POST /containers/create`."""
    body: dict[str, Any] = {
        "Image": _image(job, options),
        "Entrypoint": ["/bin/sh", "-c", _start_program(job), _log(job, rank)],
        "Cmd": list(job.command),
        "Env": [f"{name}={value}" for name, value in sorted(_variables(job, rank).items())],
        "User": options.user or OWNER,
        "WorkingDir": job.run_dir,
        "Labels": {**_labels(job), f"{LABEL}.node": str(rank), f"{LABEL}.attempt": ATTEMPT},
        "HostConfig": _host_config(job, options, rank),
    }
    if job.secrets:
        body.update(OpenStdin=True, StdinOnce=True)
    if options.network != "host":
        body["Hostname"] = _node_name(rank)
    if _has_network(job, options):
        body["NetworkingConfig"] = {"EndpointsConfig": {NETWORK: {"Aliases": [_node_name(rank)]}}}
    return body


def _node_name(rank: int) -> str:
    return f"node-{rank}"


def _start_program(job: JobSpec) -> str:
    return start_program.WITH_SECRETS if job.secrets else start_program.PLAIN


def _image(job: JobSpec, options: DockerOptions) -> str:
    return job.environment.reference if job.environment else options.image or ""


def _variables(job: JobSpec, rank: int) -> dict[str, str]:
    # A user the image has never heard of has no home in it.
    base = {"HOME": "/tmp", "USER": "tunewright", "LANG": "C.UTF-8"}
    several = {
        "TUNEWRIGHT_NODE_RANK": str(rank),
        "TUNEWRIGHT_MASTER_ADDRESS": _node_name(0),
        "TUNEWRIGHT_MASTER_PORT": MASTER_PORT,
    }
    own = {"TUNEWRIGHT_ATTEMPT": ATTEMPT, **(several if job.resources.nodes > 1 else {})}
    return {**base, **job.variables, **own}


def _labels(job: JobSpec) -> dict[str, str]:
    labels = {"run": job.run, "run_dir": job.run_dir, "id": ID, "key": KEY}
    if job.origin:
        labels["commit"] = job.origin.code.commit
    return {f"{LABEL}.{name}": value for name, value in labels.items()}


def _host_config(job: JobSpec, options: DockerOptions, rank: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "Mounts": [mount.to_docker() for mount in mounts_of(job, options.mounts)],
        "Init": True,  # a first process that passes signals on and tells what its child died of
        "ShmSize": int(options.shm_gib * 2**30),
        "NetworkMode": NETWORK if _has_network(job, options) else _NETWORK_MODES[options.network],
        "RestartPolicy": {"Name": "no"},  # the supervisor starts again, with the next TUNEWRIGHT_ATTEMPT
        # Its own log holds two lines. The daemon's default may be a driver that cannot be read.
        "LogConfig": {"Type": "json-file", "Config": {}},
    }
    if options.memory_gib is not None:
        limit_bytes = int(options.memory_gib * 2**30)
        config.update(Memory=limit_bytes, MemorySwap=limit_bytes)
    if options.cpus is not None:
        config["NanoCpus"] = int(options.cpus * 10**9)
    if devices := _gpus(options, rank, job.resources.nodes):
        config["DeviceRequests"] = [{"Capabilities": [["gpu"]], **devices}]
    return config


_NETWORK_MODES = {"private": "bridge", "host": "host", "none": "none"}


def _gpus(options: DockerOptions, rank: int, num_nodes: int) -> Mapping[str, Any] | None:
    """Which GPUs node `rank` gets: nodes never share one unless all were asked for."""
    if options.gpus == "none":
        return None
    if options.gpus == "all":
        return {"Count": -1}
    if isinstance(options.gpus, int):
        if num_nodes == 1:
            return {"Count": options.gpus}
        return {"DeviceIDs": [str(options.gpus * rank + number) for number in range(options.gpus)]}
    share = len(options.gpus) // num_nodes
    return {"DeviceIDs": list(options.gpus[share * rank : share * (rank + 1)])}


def _problems(job: JobSpec, options: DockerOptions) -> Iterator[Problem]:
    yield from image_problems(job, "docker", options.image)
    yield from _node_problems(job, options)
    yield from argument_problems(job)
    yield from _variable_problems(job)
    for earlier, later in clashes(mounts_of(job, options.mounts)):
        yield Problem(later.path, f"{later.target} is where the container has {earlier.source} already")


def _node_problems(job: JobSpec, options: DockerOptions) -> Iterator[Problem]:
    num_nodes = job.resources.nodes
    if num_nodes > 1 and options.network != "private":
        message = f"{num_nodes} nodes find each other on a network of their own, got {options.network!r}"
        yield Problem("cluster.options.network", message, 'use "private"')
    if isinstance(options.gpus, tuple) and len(options.gpus) % num_nodes:
        message = f"{len(options.gpus)} GPUs cannot be divided among {num_nodes} nodes"
        yield Problem("cluster.options.gpus", message, "list as many for each node")


def _variable_problems(job: JobSpec) -> Iterator[Problem]:
    yield from variable_problems(job, "container", TOLD_VARIABLES.__contains__)
    for section, variables in (("cluster.environment", job.variables), ("cluster.secrets", job.secrets)):
        for name in sorted(variables.keys() & start_program.RESERVED_NAMES):
            yield Problem(f"{section}.{name}", "a shell keeps this variable for itself", "choose another name")
