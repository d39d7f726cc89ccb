"""From a job to the experiment that Beaker gets, and what the submission is told besides. Pure.

What only the submission knows stands in angle brackets: `<user>`, who submits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from tunewright.clusters.beaker.encoding import carried, is_plain
from tunewright.clusters.beaker.facts import shared_mounts, shared_variables
from tunewright.clusters.beaker.mounts import Mount, parse_mount
from tunewright.clusters.beaker.options import BeakerOptions
from tunewright.clusters.beaker.problems import problems_of
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.files import json_text
from tunewright.contracts.jobs import JobSpec, PlannedFile, SubmissionPlan
from tunewright.contracts.spec import canonical_json

SPEC_FILE = "experiment.json"
SUBMISSION_FILE = "submission.json"
USER = "<user>"
"""Stands for the name of who submits."""

EITHER = " | "
"""Between two names of a secret: the first that the workspace has."""

START_PROGRAM = resources.files("tunewright.clusters.beaker").joinpath("start_program.py").read_text(encoding="utf-8")
_NANOSECONDS = 10**9
_FIRST_PORT, _NUM_PORTS = 20000, 10000
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})$")


def plan_experiment(job: JobSpec, options: BeakerOptions) -> SubmissionPlan:
    """The plan of `job`. Secrets stand in it by name. Raises InvalidExperiment for what Beaker cannot do."""
    mounts = mounts_of(options)
    if problems := list(problems_of(job, options, mounts)):
        raise InvalidExperiment.from_problems("cluster `beaker`", problems)
    files = (
        PlannedFile(name=SPEC_FILE, text=json_text(_experiment(job, options, mounts))),
        PlannedFile(name=SUBMISSION_FILE, text=json_text(_submission(job, options))),
    )
    return SubmissionPlan(cluster="beaker", run=job.run, files=files)


def mounts_of(options: BeakerOptions) -> tuple[Mount, ...]:
    """The storage that all the chosen clusters have, and the user's own."""
    shared: tuple[str, ...] = ()
    if options.cluster_mounts and options.are_all_known:
        shared = shared_mounts(list(options.chosen_facts.values()))
    return tuple(parse_mount(text) for text in dict.fromkeys((*shared, *options.mounts)))


def _experiment(job: JobSpec, options: BeakerOptions, mounts: Sequence[Mount]) -> dict[str, Any]:
    """A `BeakerExperimentSpec`, in the form its `to_json` gives."""
    spec: dict[str, Any] = {"version": "v2", "description": _description(job, options)}
    spec["tasks"] = [_task(job, options, mounts)]
    if options.budget:
        spec["budget"] = options.budget
    if job.max_retries:
        spec["retry"] = {"allowedTaskRetries": job.max_retries}
    return spec


def _task(job: JobSpec, options: BeakerOptions, mounts: Sequence[Mount]) -> dict[str, Any]:
    where = ("cluster", options.clusters) if options.clusters else ("hostname", options.hostnames)
    task: dict[str, Any] = {
        "image": _image(job, options),
        "context": _context(options),
        "result": {"path": options.result_path},
        "constraints": {where[0]: list(where[1])},
        "name": options.task_name,
        "command": [options.python, "-I", "-c", START_PROGRAM],
        "arguments": [carried(_settings(job, options)), *map(carried, job.command)],
        "envVars": _variables(job, options),
        "datasets": [mount.to_beaker() for mount in mounts],
        "resources": _resources(job, options),
        "hostNetworking": options.host_networking,
        "leaderSelection": job.resources.nodes > 1,
    }
    if job.resources.nodes > 1:
        task.update(_several(job, options))
    if options.time_limit_seconds is not None:
        task["timeout"] = _nanoseconds(options.time_limit_seconds)
    return task


def _several(job: JobSpec, options: BeakerOptions) -> dict[str, Any]:
    """What makes replicas one job: they are told of the first, and end and start together."""
    several: dict[str, Any] = {
        "replicas": job.resources.nodes,
        "propagateFailure": options.propagate_failure,
        "propagatePreemption": options.propagate_preemption,
    }
    if options.synchronized_start_timeout_seconds is not None:
        several["synchronizedStartTimeout"] = _nanoseconds(options.synchronized_start_timeout_seconds)
    return several


def _nanoseconds(seconds: float) -> int:
    return round(seconds * _NANOSECONDS)


def _context(options: BeakerOptions) -> dict[str, Any]:
    context: dict[str, Any] = {"priority": options.priority}
    if options.preemptible is not None:
        context["preemptible"] = options.preemptible
    if options.min_runtime_seconds is not None:
        context["minRuntime"] = _nanoseconds(options.min_runtime_seconds)
    does_resume = options.auto_resume if options.auto_resume is not None else options.min_runtime_seconds is not None
    if does_resume or options.auto_resume is not None:
        context["autoResume"] = does_resume
    return context


def _resources(job: JobSpec, options: BeakerOptions) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if options.cpus is not None:
        wanted["cpuCount"] = options.cpus
    wanted["gpuCount"] = job.resources.processes_per_node if options.gpus is None else options.gpus
    if options.memory_gib is not None:
        wanted["memory"] = _size(options.memory_gib)
    wanted["sharedMemory"] = _size(options.shm_gib)
    return wanted


def _size(gib: float) -> str:
    """A size in whole units: `10GiB`, or `128MiB` for an eighth of one."""
    return f"{gib:.0f}GiB" if gib == int(gib) else f"{gib * 1024:.0f}MiB"


def _image(job: JobSpec, options: BeakerOptions) -> dict[str, str]:
    """By a registry's digest, or as Beaker's own image, which the submission uploads where it is not there."""
    if options.image:
        return {"beaker": options.image}
    assert job.environment is not None  # problems_of has seen to it
    if options.image_from == "registry" or (options.image_from == "auto" and "@sha256:" in job.environment.reference):
        return {"docker": job.environment.reference}
    return {"beaker": f"{USER}/{uploaded_name(job.environment.reference, job.environment.key)}"}


def uploaded_name(reference: str, key: str) -> str:
    """The name on Beaker of an image of ours: one name, one content. Before it is built its key stands for it."""
    found = _DIGEST.search(reference)
    return f"tunewright-{(found.group(1) if found else key)[:20]}"


def _settings(job: JobSpec, options: BeakerOptions) -> str:
    """What the start program is told, in one argument."""
    encoded = [name for name, value in sorted(_plain_variables(job, options).items()) if not is_plain(value)]
    port = options.rendezvous_port or _port(job)
    settings: dict[str, Any] = {"run_dir": job.run_dir, "nodes": job.resources.nodes, "encoded": encoded}
    return canonical_json({**settings, "port": str(port)} if job.resources.nodes > 1 else settings)


def _port(job: JobSpec) -> int:
    """One of ten thousand, by the run: with the machines' own network, runs beside each other must not meet."""
    number = int.from_bytes(hashlib.sha256(job.run_dir.encode()).digest()[:4], "big")
    return _FIRST_PORT + number % _NUM_PORTS


def _plain_variables(job: JobSpec, options: BeakerOptions) -> dict[str, str]:
    """The job's over the clusters'."""
    rows = options.chosen_facts.values() if options.are_all_known else ()
    variables, _ = shared_variables([row.environment for row in rows])
    if job.resources.nodes > 1:
        variables |= shared_variables([row.multi_node_environment for row in rows])[0]
    return {**variables, **job.variables}


def _variables(job: JobSpec, options: BeakerOptions) -> list[dict[str, str]]:
    plain = _plain_variables(job, options)
    values = [{"name": name, "value": carried(plain[name])} for name in sorted(plain.keys() - job.secrets.keys())]
    return [*values, *({"name": name, "secret": _secret(job.secrets[name], options)} for name in sorted(job.secrets))]


def _secret(name: str, options: BeakerOptions) -> str:
    """The user's own, else the workspace's: the submission looks which is there."""
    return f"{USER}_{name}{EITHER}{name}" if options.user_secrets else name


def _description(job: JobSpec, options: BeakerOptions) -> str:
    text = options.description if options.description is not None else _own_description(job)
    return " ".join([text, *(f"[{tag}]" for tag in options.tags)])


def _own_description(job: JobSpec) -> str:
    commit = f", commit {job.origin.code.commit[:12]}" if job.origin else ""
    dirty = ", with changes" if job.origin and job.origin.code.dirty else ""
    return f"Tunewright run {job.run}{commit}{dirty}"


def _submission(job: JobSpec, options: BeakerOptions) -> Mapping[str, Any]:
    """What no spec of Beaker has a place for."""
    environment = job.environment
    is_uploaded = environment is not None and _image(job, options).get("beaker", "").startswith(USER)
    commit = (environment.commit if environment else None) or (job.origin.code.commit if job.origin else None)
    return {
        "run": job.run,
        "run_dir": job.run_dir,
        "nodes": job.resources.nodes,
        "workspace": options.workspace,
        "budget": options.budget,
        "groups": list(options.groups),
        "upload": {"reference": environment.reference, "commit": commit} if is_uploaded and environment else None,
    }
