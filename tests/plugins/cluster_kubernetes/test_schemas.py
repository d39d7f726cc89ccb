"""What is planned passes the schemas of the last four versions of Kubernetes, strictly, and the rules for names."""

from __future__ import annotations

import itertools
from typing import Any

import kubernetes_validate
import pytest
import yaml
from servers.kubernetes_api.checking import problems, schema_problems, versions

from plugins.cluster_kubernetes.planned_jobs import job, options
from tunewright.clusters.kubernetes.plan import plan_objects
from tunewright.clusters.kubernetes.submission import filled_in
from tunewright.contracts.jobs import Resources

LAST_FOUR = versions()[-4:]
OPTIONS: dict[str, Any] = {
    "memory_gib": 0.3, "cpus": 0.25, "gpus": 8, "shm_gib": 64.0, "gpu_resource": "amd.com/gpu",
    "mounts": ("claim:home/sub/dir:/home", "/mnt/x:/x:ro", "secret:files:/secret", "scratch:10:/scratch"),
    "node_selector": {"kubernetes.io/arch": "amd64"}, "tolerations": ("a", "b=c", "d:NoExecute", "e=f:NoSchedule"),
    "priority_class": "high", "service_account": "me", "host_network": True, "user": "1000:100",
    "image_pull_secrets": ("one", "two"), "image_pull_policy": "Always", "labels": {"team": "x"},
    "annotations": {"note": "ü\n$"}, "disruptions": "ignore", "time_limit_seconds": 5, "keep_seconds": None,
    "kueue_queue": "q", "stop_grace_seconds": 120, "node_loss_seconds": 0,
}  # fmt: skip
FULL_JOB: dict[str, Any] = {"secrets": {"A": "b", "C": "d/e"}, "variables": {"X": "é"}, "max_retries": 3}


def check(document: dict[str, Any]) -> None:
    for version in LAST_FOUR:
        assert not schema_problems(document, version)


def documents(nodes: int, is_full: bool, **changes: Any) -> list[dict[str, Any]]:
    given = {**(OPTIONS if is_full else {}), **changes}
    fields = FULL_JOB if is_full else {}
    plan = plan_objects(job(resources=Resources(nodes=nodes), **fields), options(**given))
    return [filled_in(file.text, "tw-x", "key") for file in plan.files if file.name.endswith(".yaml")]


def test_four_versions_are_checked() -> None:
    assert len(LAST_FOUR) == 4
    assert LAST_FOUR[0].startswith("1.")


@pytest.mark.parametrize("nodes", [1, 4])
def test_jobs_and_services_pass_each_option_alone_and_all_together(nodes: int) -> None:
    alone = [{name: value} for name, value in OPTIONS.items()]
    for is_full, changes in [(False, {}), (True, {}), *((False, change) for change in alone)]:
        if "mounts" not in changes or changes["mounts"] == OPTIONS["mounts"]:
            made = documents(nodes, is_full, **changes)
            assert len(made) == (1 if nodes == 1 else 2)
            for document in made:
                check(document)
                assert not problems(f"{document['kind'].lower()}s", document)


def test_the_real_validator_agrees() -> None:
    (document,) = documents(1, True)
    for version in LAST_FOUR:
        assert kubernetes_validate.validate(document, version, strict=True)


def test_the_pods_inside_a_jobset_pass_too() -> None:
    """JobSet's own schema is its operator's and is not bundled: the Job in it is a Job of Kubernetes."""
    for nodes, is_full in itertools.product((1, 4), (False, True)):
        changes = {"time_limit_seconds": None} if is_full else {}
        (document,) = documents(nodes, is_full, render="jobset", **changes)
        inner = document["spec"]["replicatedJobs"][0]["template"]["spec"]
        check({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": inner})


def test_what_a_trainjob_brings_for_its_pods_passes_too() -> None:
    """TrainJob's schema is not bundled either: its container, volumes and overrides make a pod of Kubernetes."""
    (document,) = documents(2, False, render="trainjob", gpus=2)
    trainer, override = document["spec"]["trainer"], document["spec"]["podTemplateOverrides"][0]["spec"]
    container = {
        "name": "node", "image": trainer["image"], "command": trainer["command"], "args": trainer["args"],
        "env": trainer["env"], "resources": trainer["resourcesPerNode"], **override["containers"][0],
    }  # fmt: skip
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "x"},
        "spec": {**override, "containers": [container]},
    }
    check(pod)


def test_a_wrong_field_is_found() -> None:
    (document,) = documents(1, False)
    document["spec"]["backoffLimitPerIndx"] = 1
    assert all("backoffLimitPerIndx" in schema_problems(document, version)[0] for version in LAST_FOUR)


def test_rendered_yaml_is_what_kubectl_reads() -> None:
    plan = plan_objects(job(resources=Resources(nodes=2)), options())
    kinds = [yaml.safe_load(file.text)["kind"] for file in plan.files if file.name.endswith(".yaml")]
    assert kinds == ["Job", "Service"]
