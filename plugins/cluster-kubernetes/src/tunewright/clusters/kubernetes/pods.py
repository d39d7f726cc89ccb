"""The pod of a node: its container, what it asks for, where it goes. Pure, and the same in every rendering."""

from __future__ import annotations

import json
from typing import Any

from tunewright.clusters.kubernetes.mounts import Mount, gibibytes, parse_mount
from tunewright.clusters.kubernetes.names import LABEL, split_secret
from tunewright.clusters.kubernetes.options import KubernetesOptions
from tunewright.clusters.kubernetes.program_text import START_PROGRAM
from tunewright.clusters.kubernetes.tolerations import parse_toleration, when_a_node_is_lost
from tunewright.contracts.jobs import JobSpec

CONTAINER = "job"
MASTER_PORT = 29500
LINK_PORT = 29501
START_ANNOTATION = f"{LABEL}/start"
_START = "TUNEWRIGHT_START"


def image_of(job: JobSpec, options: KubernetesOptions) -> str:
    """The image that the pods run."""
    return job.environment.reference if job.environment else options.image or ""


def start_text(job: JobSpec, options: KubernetesOptions) -> str:
    """What the start program is told, as JSON in ASCII. It stands in an annotation: nothing expands in there."""
    start = {
        "command": list(job.command),
        "directory": job.run_dir,
        "defaults": {"HOME": "/tmp", "USER": "tunewright", "LANG": "C.UTF-8"},
        "variables": dict(sorted(job.variables.items())),
        "secrets": sorted(job.secrets),
        "nodes": job.resources.nodes,
        "port": MASTER_PORT,
        "link_port": LINK_PORT,
        "join_seconds": options.join_seconds,
        "grace_seconds": options.stop_grace_seconds,
        "has_service_account": options.service_account is not None,
    }
    return json.dumps(start, indent=1) + "\n"


def pod_spec(job: JobSpec, options: KubernetesOptions, environment: list[dict[str, Any]]) -> dict[str, Any]:
    """The pod's `spec`. `environment`: what the start program is told by the rendering."""
    mounts = _named_mounts(options)
    shared_memory = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": gibibytes(options.shm_gib)}}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "enableServiceLinks": False,
        "automountServiceAccountToken": options.service_account is not None,
        "terminationGracePeriodSeconds": options.stop_grace_seconds,
        "containers": [_container(job, options, environment, mounts)],
        "volumes": [shared_memory, *(mount.volume(name) for name, mount in mounts)],
        "tolerations": [
            *when_a_node_is_lost(options.node_loss_seconds),
            *(parse_toleration(text) for text in options.tolerations),
        ],
    }
    return {**spec, **_placement(options)}


def _named_mounts(options: KubernetesOptions) -> list[tuple[str, Mount]]:
    return [(f"mount-{number}", parse_mount(text)) for number, text in enumerate(options.mounts)]


def _container(
    job: JobSpec, options: KubernetesOptions, environment: list[dict[str, Any]], mounts: list[tuple[str, Mount]]
) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": image_of(job, options),
        "imagePullPolicy": options.image_pull_policy,
        "command": [options.python, "-I", "-S", "-c", START_PROGRAM],
        "env": [*_environment(job, options), *environment],
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},
            *(mount.volume_mount(name) for name, mount in mounts),
        ],
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }
    if resources := _resources(options):
        container["resources"] = resources
    return container


def _environment(job: JobSpec, options: KubernetesOptions) -> list[dict[str, Any]]:
    """Variables of the container itself: the start program's, and the secrets, whose values only the node knows."""
    told = [
        field_variable(_START, f"metadata.annotations['{START_ANNOTATION}']"),
        field_variable(f"{_START}_NAME", f"metadata.labels['{LABEL}/name']"),
    ]
    for variable, reference in sorted(job.secrets.items()):
        name, key = split_secret(reference, options.secret)
        told.append({"name": variable, "valueFrom": {"secretKeyRef": {"name": name, "key": key}}})
    return told


def field_variable(name: str, path: str) -> dict[str, Any]:
    """A variable with something that the pod's object says. Its value is not expanded."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _resources(options: KubernetesOptions) -> dict[str, Any]:
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    if options.cpus is not None:
        requests["cpu"] = f"{max(1, round(options.cpus * 1000))}m"
    if options.memory_gib is not None:
        requests["memory"] = limits["memory"] = gibibytes(options.memory_gib)
    if options.gpus:
        requests[options.gpu_resource] = limits[options.gpu_resource] = str(options.gpus)
    return {name: values for name, values in (("requests", requests), ("limits", limits)) if values}


def _placement(options: KubernetesOptions) -> dict[str, Any]:
    """Where the pod may go, and as whom it runs there; what was not asked for is left out."""
    spec: dict[str, Any] = {}
    if options.node_selector:
        spec["nodeSelector"] = dict(options.node_selector)
    if options.priority_class:
        spec["priorityClassName"] = options.priority_class
    if options.service_account:
        spec["serviceAccountName"] = options.service_account
    if options.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in options.image_pull_secrets]
    if options.host_network:
        spec.update(hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet")
    if options.user:
        user, _, group = options.user.partition(":")
        ids = {"runAsUser": int(user), **({"runAsGroup": int(group), "fsGroup": int(group)} if group else {})}
        spec["securityContext"] = {**ids, "fsGroupChangePolicy": "OnRootMismatch"} if group else ids
    return spec
