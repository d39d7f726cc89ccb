"""The objects of a job: a batch/v1 Job and its service, a JobSet, or a Kubeflow TrainJob. Pure.

Fields of JobSet (jobset.x-k8s.io/v1alpha2), Kueue (v0.x labels) and TrainJob (trainer.kubeflow.org/v1alpha1) are those
of their projects' API references; their operators were not run here.
"""

from __future__ import annotations

import base64
from typing import Any

from tunewright.clusters.kubernetes.names import KEY, LABEL, NAME, slug
from tunewright.clusters.kubernetes.options import KubernetesOptions
from tunewright.clusters.kubernetes.pods import CONTAINER, START_ANNOTATION, field_variable, pod_spec, start_text
from tunewright.clusters.kubernetes.start_program import PARTNER_LOST
from tunewright.contracts.jobs import JobSpec

HOPELESS_EXIT_CODES = (64, 65, 66, 77, 78)
"""What the next attempt would end with too: a wrong experiment, missing or damaged files."""

KUEUE_LABEL = "kueue.x-k8s.io/queue-name"
COUNTED = "batch.kubernetes.io/job-index-failure-count"
IGNORED = "batch.kubernetes.io/job-index-ignored-failure-count"
"""What the Job controller counts for each index, and writes on its next pod."""

JOBSET_ATTEMPT = "jobset.sigs.k8s.io/restart-attempt"
_REPLICATED_JOB = "node"


def main_object(job: JobSpec, options: KubernetesOptions) -> dict[str, Any]:
    """The object that is the job."""
    return {"job": _job, "jobset": _jobset, "trainjob": _trainjob}[options.render](job, options)


def service(job: JobSpec, options: KubernetesOptions) -> dict[str, Any]:
    """The headless service by which the pods of several nodes have names. It goes when its job goes."""
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {f"{LABEL}/name": NAME},
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(job, options), "spec": spec}


def _metadata(job: JobSpec, options: KubernetesOptions, is_queued: bool = False) -> dict[str, Any]:
    labels = _labels(job, options)
    if is_queued and options.kueue_queue:
        labels[KUEUE_LABEL] = options.kueue_queue
    annotations = {**options.annotations, f"{LABEL}/run": job.run, f"{LABEL}/run-dir": job.run_dir, f"{LABEL}/key": KEY}
    return {"name": NAME, "namespace": options.namespace, "labels": labels, "annotations": annotations}


def _labels(job: JobSpec, options: KubernetesOptions) -> dict[str, str]:
    own = {"app.kubernetes.io/managed-by": "tunewright", f"{LABEL}/name": NAME, f"{LABEL}/run": slug(job.run)}
    if job.origin:
        own[f"{LABEL}/commit"] = job.origin.code.commit[:63]
    return {**options.labels, **own}


def _job(job: JobSpec, options: KubernetesOptions) -> dict[str, Any]:
    """A Job whose indexes are the ranks: one that fails too often ends all."""
    spec = _indexed(job, options)
    counts = {
        "backoffLimitPerIndex": job.max_retries,
        "maxFailedIndexes": 0,
        "podReplacementPolicy": "Failed",  # never two pods of one rank: they would write the same files
        "podFailurePolicy": {"rules": _failure_rules(job, options)},
    }
    spec = {**spec, **counts, "suspend": options.kueue_queue is not None}
    if options.time_limit_seconds is not None:
        spec["activeDeadlineSeconds"] = options.time_limit_seconds
    if options.keep_seconds is not None:
        spec["ttlSecondsAfterFinished"] = options.keep_seconds
    environment = [
        field_variable("TUNEWRIGHT_START_FAILURES", f"metadata.annotations['{COUNTED}']"),
        field_variable("TUNEWRIGHT_START_DISRUPTIONS", f"metadata.annotations['{IGNORED}']"),
    ]
    if job.resources.nodes > 1:
        environment.append({"name": "TUNEWRIGHT_START_MASTER", "value": f"{NAME}-0.{NAME}"})
    spec["template"] = _template(job, options, environment)
    metadata = _metadata(job, options, is_queued=True)
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _indexed(job: JobSpec, options: KubernetesOptions) -> dict[str, Any]:
    nodes = job.resources.nodes
    return {"completionMode": "Indexed", "completions": nodes, "parallelism": nodes}


def _failure_rules(job: JobSpec, options: KubernetesOptions) -> list[dict[str, Any]]:
    """What the Job controller makes of a failed pod; by default it counts."""
    codes = {"containerName": CONTAINER, "operator": "In"}
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    rules: list[dict[str, Any]] = []
    if options.disruptions == "count" and not job.max_retries:
        # It fails either way. This one says why: the pod, which could, is deleted.
        rules.append({"action": "FailJob", "onPodConditions": disrupted})
    if options.disruptions == "ignore":
        rules.append({"action": "Ignore", "onPodConditions": disrupted})
        rules.append({"action": "Ignore", "onExitCodes": {**codes, "values": [PARTNER_LOST]}})
    rules.append({"action": "FailJob", "onExitCodes": {**codes, "values": list(HOPELESS_EXIT_CODES)}})
    return rules


def _template(job: JobSpec, options: KubernetesOptions, environment: list[dict[str, Any]]) -> dict[str, Any]:
    spec = pod_spec(job, options, environment)
    if options.render == "job" and job.resources.nodes > 1:
        spec["subdomain"] = NAME
    return {"metadata": _pod_metadata(job, options), "spec": spec}


def _pod_metadata(job: JobSpec, options: KubernetesOptions) -> dict[str, Any]:
    annotations = {**options.annotations, START_ANNOTATION: start_text(job, options)}
    return {"labels": _labels(job, options), "annotations": annotations}


def _jobset(job: JobSpec, options: KubernetesOptions) -> dict[str, Any]:
    """A JobSet of one replicated Job: its controller starts all nodes again, and counts that."""
    environment = [field_variable("TUNEWRIGHT_START_FAILURES", f"metadata.labels['{JOBSET_ATTEMPT}']")]
    if job.resources.nodes > 1:
        environment.append({"name": "TUNEWRIGHT_START_MASTER", "value": f"{NAME}-{_REPLICATED_JOB}-0-0.{NAME}"})
    job_spec = {**_indexed(job, options), "backoffLimit": 0, "template": _template(job, options, environment)}
    replicated = {"name": _REPLICATED_JOB, "replicas": 1, "template": {"spec": job_spec}}
    spec: dict[str, Any] = {
        "suspend": options.kueue_queue is not None,
        "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
        "failurePolicy": {"maxRestarts": job.max_retries},
        "successPolicy": {"operator": "All"},
        "replicatedJobs": [replicated],
    }
    if options.keep_seconds is not None:
        spec["ttlSecondsAfterFinished"] = options.keep_seconds
    metadata = _metadata(job, options, is_queued=True)
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata, "spec": spec}


def _trainjob(job: JobSpec, options: KubernetesOptions) -> dict[str, Any]:
    """A TrainJob: the runtime's own pods, with our command, image and patches where it allows them."""
    environment = [field_variable("TUNEWRIGHT_START_FAILURES", f"metadata.labels['{JOBSET_ATTEMPT}']")]
    if job.resources.nodes > 1:
        environment.append({"name": "TUNEWRIGHT_START_MASTER", "value": f"{NAME}-{_REPLICATED_JOB}-0-0.{NAME}"})
    pod = pod_spec(job, options, environment)
    container = pod["containers"][0]
    # A runtime's pods do not get the TrainJob's annotations. Base64 has no letter that is expanded.
    told = {
        "TUNEWRIGHT_START": base64.b64encode(start_text(job, options).encode()).decode(),
        "TUNEWRIGHT_START_NAME": NAME,
    }
    kept = [variable for variable in container["env"] if variable["name"] not in told]
    trainer = {
        "image": container["image"],
        "command": container["command"],
        "args": [],
        "env": [*({"name": name, "value": value} for name, value in told.items()), *kept],
        "numNodes": job.resources.nodes,
        "numProcPerNode": 1,  # the trainer starts the node's processes itself
        **({"resourcesPerNode": container["resources"]} if "resources" in container else {}),
    }
    spec = {
        "runtimeRef": {"apiGroup": "trainer.kubeflow.org", "kind": "ClusterTrainingRuntime", "name": options.runtime},
        "suspend": options.kueue_queue is not None,
        "trainer": trainer,
        "podTemplateOverrides": [_override(pod)],
    }
    metadata = _metadata(job, options, is_queued=True)
    return {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": metadata, "spec": spec}


def _override(pod: dict[str, Any]) -> dict[str, Any]:
    """What a TrainJob may change of its runtime's pods beside the container's command and image."""
    kept = ("volumes", "tolerations", "nodeSelector", "serviceAccountName", "imagePullSecrets")
    spec = {name: pod[name] for name in kept if name in pod}
    spec["containers"] = [{"name": _REPLICATED_JOB, "volumeMounts": pod["containers"][0]["volumeMounts"]}]
    return {"targetJobs": [{"name": _REPLICATED_JOB}], "spec": spec}
