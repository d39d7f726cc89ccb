"""The stand-in does what Kubernetes is documented to do, where the other tests rely on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client import ApiException
from servers.docker_engine import BASE_IMAGE
from servers.kubernetes_api.expansion import expand
from servers.kubernetes_api.selectors import matches
from servers.kubernetes_api.server import KubernetesServer

from plugins.cluster_kubernetes.kubernetes_jobs import eventually

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def api(kubeconfig: Path) -> Any:
    untyped: Any = config
    return untyped.new_client_from_config(config_file=str(kubeconfig))


def a_job(name: str, *command: str, env: Any = (), **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": BASE_IMAGE, "command": list(command), "env": list(env)}
    pod = {"restartPolicy": "Never", "containers": [container], "terminationGracePeriodSeconds": 1}
    own = {"completionMode": "Indexed", "completions": 1, "parallelism": 1, "template": {"spec": pod}, **spec}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": own}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [("$(A)", "1"), ("$$(A)", "$(A)"), ("$$$(A)", "$1"), ("$(B)", "$(B)"), ("$A", "$A"), ("$$", "$"), ("a$", "a$")],
)
def test_references_are_expanded_as_documented(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


@pytest.mark.parametrize(
    ("selector", "is_so"),
    [
        ("a=1", True), ("a==1", True), ("a!=1", False), ("a in (1,2),b", True), ("a notin (1)", False), ("!c", True),
        ("a=1,b=3", False), ("c", False), ("", True),
    ],
)  # fmt: skip
def test_selectors_choose_as_documented(selector: str, is_so: bool) -> None:
    assert matches(selector, {"a": "1", "b": "2"}) is is_so


def test_the_typed_client_makes_watches_and_reads_a_job(server: KubernetesServer, api: Any) -> None:
    batch, core = client.BatchV1Api(api), client.CoreV1Api(api)
    script = "import sys; print(sys.argv[1:])"
    env = [{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)$$(A)"}]
    batch.create_namespaced_job("default", a_job("typed", "python3", "-c", script, "$(B)", "$(C)", env=env))
    untyped: Any = __import__("kubernetes.watch", fromlist=["Watch"])
    for event in untyped.Watch().stream(batch.list_namespaced_job, "default", timeout_seconds=60):
        if event["object"].metadata.name == "typed" and event["object"].status.completion_time:
            break
    (pod,) = core.list_namespaced_pod("default", label_selector="job-name=typed").items
    assert core.read_namespaced_pod_log(pod.metadata.name, "default") == "['1$(A)', '$(C)']\n"
    batch.delete_namespaced_job("typed", "default", propagation_policy="Background")
    eventually(lambda: not server.pods_of("typed"))


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"metadata": {"name": "Upper"}}, 422, "metadata.name"),
        ({"metadata": {"name": "x", "labels": {"a": "b c"}}}, 422, "labels"),
        ({"metadata": {"name": "x" * 63}}, 422, "63 characters"),
        ({"spec": {"completions": 1, "maxFailedIndexes": 0}}, 422, "backoffLimitPerIndex"),
        ({"spec": {"completions": 1, "colour": "red"}}, 422, "colour"),
        ({"kind": "Pod"}, 400, "no Job"),
    ],
)
def test_what_is_wrong_is_refused(api: Any, change: dict[str, Any], code: int, words: str) -> None:
    document = a_job("wrong", "true")
    document.update({key: value for key, value in change.items() if key != "spec"})
    document["spec"].update(change.get("spec", {}))
    with pytest.raises(ApiException) as caught:
        # The typed method would find unknown fields itself.
        client.CustomObjectsApi(api).create_namespaced_custom_object("batch", "v1", "default", "jobs", document)
    assert caught.value.status == code
    assert words in str(caught.value.body)


def test_a_jobs_template_cannot_be_changed_and_its_deadline_can(server: KubernetesServer, api: Any) -> None:
    batch = client.BatchV1Api(api)
    batch.create_namespaced_job("default", a_job("fixed", "true", suspend=True))
    with pytest.raises(ApiException, match="immutable"):
        batch.patch_namespaced_job("fixed", "default", {"spec": {"backoffLimitPerIndex": 3}})
    batch.patch_namespaced_job("fixed", "default", {"spec": {"activeDeadlineSeconds": 3}})
    assert server.store.get("jobs", "default", "fixed")["spec"]["activeDeadlineSeconds"] == 3
    with pytest.raises(ApiException, match="AlreadyExists"):
        batch.create_namespaced_job("default", a_job("fixed", "true"))


def test_without_limits_per_index_failures_of_all_count_together(server: KubernetesServer, api: Any) -> None:
    client.BatchV1Api(api).create_namespaced_job("default", a_job("often", "false", backoffLimit=1))

    def reasons() -> list[str]:
        conditions = server.store.get("jobs", "default", "often")["status"].get("conditions", [])
        return [one["reason"] for one in conditions if one["type"] == "Failed"]

    eventually(reasons)
    assert reasons() == ["BackoffLimitExceeded"]
    assert len(server.pods_of("often")) == 2


def test_a_suspended_job_loses_its_pods_and_goes_on_when_it_is_resumed(server: KubernetesServer, api: Any) -> None:
    batch = client.BatchV1Api(api)
    batch.create_namespaced_job("default", a_job("paused", "sleep", "600"))
    eventually(lambda: [pod for pod in server.pods_of("paused") if pod["status"]["phase"] == "Running"])
    batch.patch_namespaced_job("paused", "default", {"spec": {"suspend": True}})
    eventually(lambda: not server.pods_of("paused"))
    batch.patch_namespaced_job("paused", "default", {"spec": {"suspend": False}})
    eventually(lambda: [pod for pod in server.pods_of("paused") if pod["status"]["phase"] == "Running"])
    batch.delete_namespaced_job("paused", "default")
    eventually(lambda: not server.pods_of("paused"))
