"""From a job to the objects that Kubernetes gets, in YAML. Pure.

What only the submission knows stands in them in angle brackets, alone in its place: `<name>`, which it makes of the
run, its directory and the key, and `<key>`. `submit` fills these in and sends the rest as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tunewright.clusters.kubernetes.mounts import parse_mount, problems_of
from tunewright.clusters.kubernetes.names import split_secret
from tunewright.clusters.kubernetes.options import KubernetesOptions
from tunewright.clusters.kubernetes.pods import image_of, start_text
from tunewright.clusters.kubernetes.rendering import main_object, service
from tunewright.clusters.kubernetes.yaml_text import yaml_text
from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.files import json_text
from tunewright.contracts.job_problems import TOLD_VARIABLES, argument_problems, image_problems, variable_problems
from tunewright.contracts.jobs import JobSpec, PlannedFile, SubmissionPlan

PLAN_FILE = "kubernetes.json"
SERVICE_FILE = "service.yaml"
_ANNOTATION_BYTES = 128 << 10  # annotations may have 256 KiB, a variable of a process 128 KiB
_MOST_RETRIES = 1000


def plan_objects(job: JobSpec, options: KubernetesOptions) -> SubmissionPlan:
    """The plan of `job`. Raises InvalidExperiment for what Kubernetes cannot do, every problem at once."""
    if problems := list(_problems(job, options)):
        raise InvalidExperiment.from_problems("cluster `kubernetes`", problems)
    files = [PlannedFile(name=f"{options.render}.yaml", text=yaml_text(main_object(job, options)))]
    if options.render == "job" and job.resources.nodes > 1:
        files.append(PlannedFile(name=SERVICE_FILE, text=yaml_text(service(job, options))))
    files.append(PlannedFile(name=PLAN_FILE, text=json_text(_what_the_client_needs(job, options))))
    return SubmissionPlan(cluster="kubernetes", run=job.run, files=tuple(files))


def _what_the_client_needs(job: JobSpec, options: KubernetesOptions) -> dict[str, Any]:
    return {
        "run": job.run,
        "run_dir": job.run_dir,
        "nodes": job.resources.nodes,
        "render": options.render,
        "kubeconfig": options.kubeconfig,
        "context": options.context,
        "namespace": options.namespace,
        "secrets": {name: "/".join(split_secret(text, options.secret)) for name, text in sorted(job.secrets.items())},
    }


def _problems(job: JobSpec, options: KubernetesOptions) -> Iterator[Problem]:
    yield from _image_problems(job, options)
    yield from argument_problems(job)
    yield from variable_problems(job, "pod", _is_own)
    yield from _secret_problems(job, options)
    if not job.run_dir.startswith("/"):
        yield Problem("run", f"the run's directory must be absolute, got {job.run_dir!r}")
    for field, message in problems_of(job, [parse_mount(text) for text in options.mounts]):
        hint = 'add "claim:NAME:/PATH" or "/NODE/PATH:/PATH"' if field == "mounts" else "choose another target"
        yield Problem(f"cluster.options.{field}", message, hint)
    yield from _rendering_problems(job, options)


def _image_problems(job: JobSpec, options: KubernetesOptions) -> Iterator[Problem]:
    yield from image_problems(job, "kubernetes", options.image)
    if re.search(r"\s", image_of(job, options)):
        yield Problem("cluster.options.image", f"an image's name has no white space, got {image_of(job, options)!r}")


def _is_own(variable: str) -> bool:
    return variable in TOLD_VARIABLES or variable.startswith("TUNEWRIGHT_START")


def _secret_problems(job: JobSpec, options: KubernetesOptions) -> Iterator[Problem]:
    for name, reference in job.secrets.items():
        try:
            split_secret(reference, options.secret)
        except ValueError as error:
            yield Problem(f"cluster.secrets.{name}", str(error))


def _rendering_problems(job: JobSpec, options: KubernetesOptions) -> Iterator[Problem]:
    if job.max_retries > _MOST_RETRIES:
        yield Problem("cluster.max_retries", f"at most {_MOST_RETRIES}, got {job.max_retries}")
    if options.render == "trainjob" and job.max_retries:
        message = "a TrainJob's restarts are its ClusterTrainingRuntime's: only 0 can be asked for here"
        yield Problem("cluster.max_retries", f"{message}, got {job.max_retries}", 'use render = "jobset"')
    if options.render == "trainjob":
        for name in ("user", "priority_class", "host_network"):
            if getattr(options, name):
                message = "a TrainJob leaves this to its ClusterTrainingRuntime"
                yield Problem(f"cluster.options.{name}", message, 'use render = "jobset"')
    if options.render != "job" and options.time_limit_seconds is not None:
        message = f"a {options.render} has no time limit"
        yield Problem("cluster.options.time_limit_seconds", message, 'use render = "job"')
    for key in (*options.labels, *options.annotations):
        if key.split("/")[0].endswith(("tunewright.ai", "kubernetes.io", "k8s.io")) and "/" in key:
            yield Problem("cluster.options.labels", f"`{key}` is not a user's to set", "use a prefix of your own")
    if len(start_text(job, options)) > _ANNOTATION_BYTES:
        hint = "put long arguments into a file of the run's directory"
        yield Problem("command", "the command and its variables are larger than 128 KiB together", hint)
