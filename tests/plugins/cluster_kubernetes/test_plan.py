"""Plans: what Kubernetes gets, to the letter, and what is refused before."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.cluster_kubernetes.planned_jobs import IMAGE, job, options
from plugins.cluster_kubernetes.recorded_plan import RECORDED_PLAN
from tunewright.clusters.kubernetes.names import LABEL_VALUE, object_name
from tunewright.clusters.kubernetes.options import KubernetesOptions
from tunewright.clusters.kubernetes.plan import PLAN_FILE, plan_objects
from tunewright.clusters.kubernetes.pods import START_ANNOTATION
from tunewright.clusters.kubernetes.program_text import START_PROGRAM
from tunewright.clusters.kubernetes.submission import filled_in
from tunewright.clusters.kubernetes.yaml_text import yaml_text
from tunewright.contracts.environments import CodeOrigin, EnvironmentRef
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.experiment_file import parse_spec
from tunewright.contracts.jobs import JobSpec, LaunchOrigin, ModelReference, Resources


def planned(a_job: JobSpec, **fields: Any) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(plan_objects(a_job, options(**fields)).files[0].text)
    return document


def pod(a_job: JobSpec, **fields: Any) -> dict[str, Any]:
    spec: dict[str, Any] = planned(a_job, **fields)["spec"]["template"]["spec"]
    return spec


def test_the_plan_of_a_job_is_as_recorded() -> None:
    code = CodeOrigin(commit="c" * 40)
    origin = LaunchOrigin(code=code, user="u", host="h", plugins={})
    fields = {
        "variables": {"A": "$(A)"}, "secrets": {"TOKEN": "hub/token", "OTHER": "other"}, "max_retries": 2,
        "resources": Resources(nodes=2), "origin": origin,
        "model": ModelReference(name_or_path="/models/tiny"),
    }  # fmt: skip
    plan = plan_objects(
        job(**fields),
        options(
            mounts=("claim:home:/home", "/mnt/models:/models:ro"), memory_gib=16, cpus=4, gpus=8,
            node_selector={"gpu": "h100"}, tolerations=("nvidia.com/gpu:NoSchedule",), priority_class="high",
            service_account="trainer", image_pull_secrets=("registry",), time_limit_seconds=3600, namespace="training",
            context="prod", user="1000:100",
        ),
    )  # fmt: skip
    texts = "".join(f"# {file.name}\n{file.text}" for file in plan.files)
    program = "".join(f"              {line}\n" if line else "\n" for line in START_PROGRAM[:-1].split("\n"))
    assert texts.replace(program, "              <the start program>\n") == RECORDED_PLAN


def test_the_start_program_has_nothing_that_kubernetes_would_expand() -> None:
    assert "$(" not in START_PROGRAM
    assert "$$" not in START_PROGRAM
    assert pod(job())["containers"][0]["command"] == ["python3", "-I", "-S", "-c", START_PROGRAM]


def test_the_command_stands_where_nothing_expands() -> None:
    document = planned(job())
    start = json.loads(document["spec"]["template"]["metadata"]["annotations"][START_ANNOTATION])
    assert start["command"] == ["trainer", "train", "$(HOME) $$"]
    assert not any("$" in str(one.get("value", "")) for one in pod(job())["containers"][0]["env"])


def test_only_the_submissions_words_are_filled_in() -> None:
    text = plan_objects(job(command=("echo", "<name>", "<key>"), resources=Resources(nodes=2)), options()).files[0].text
    document = filled_in(text, "tw-x", "the key")
    assert document["metadata"]["name"] == "tw-x"
    assert document["metadata"]["annotations"]["tunewright.ai/key"] == "the key"
    template = document["spec"]["template"]
    assert template["spec"]["subdomain"] == "tw-x"
    assert json.loads(template["metadata"]["annotations"][START_ANNOTATION])["command"] == ["echo", "<name>", "<key>"]
    master = [one for one in template["spec"]["containers"][0]["env"] if one["name"] == "TUNEWRIGHT_START_MASTER"]
    assert master == [{"name": "TUNEWRIGHT_START_MASTER", "value": "tw-x-0.tw-x"}]


@settings(deadline=None, max_examples=50)
@given(st.text(), st.text(), st.text())
def test_names_are_valid_whatever_a_run_is_called(run: str, directory: str, key: str) -> None:
    name = object_name(run, directory, key)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(f"{name}-node-0-9999") <= 63
    assert re.fullmatch(LABEL_VALUE, name)


def test_submissions_of_other_homes_and_keys_have_other_names() -> None:
    assert len({object_name("r", "/a", "k"), object_name("r", "/b", "k"), object_name("r", "/a", "l")}) == 3


KEYS = st.text(max_size=60)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(KEYS, PLAIN))
def test_yaml_gives_back_what_was_written(document: dict[str, Any]) -> None:
    if document:
        assert yaml.safe_load(yaml_text(document)) == document


@pytest.mark.parametrize(
    "text", ["a\nb\n", "a\n\n", " a\nb\n", "a\n  b\n\nc\n", "é\n\x85\u2028x\n", "|\n", "- a\n", "# a\n"]
)
def test_texts_of_several_lines_survive_yaml(text: str) -> None:
    document = {"a": {"b": [text, {"c": text}]}, "yes": text}
    assert yaml.safe_load(yaml_text(document)) == document


def test_disruptions_can_be_left_uncounted() -> None:
    rules = planned(job(), disruptions="ignore")["spec"]["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["Ignore", "Ignore", "FailJob"]
    assert [rule["action"] for rule in planned(job(max_retries=1))["spec"]["podFailurePolicy"]["rules"]] == ["FailJob"]
    rules = planned(job())["spec"]["podFailurePolicy"]["rules"]
    assert [("onPodConditions" in rule, rule["action"]) for rule in rules] == [(True, "FailJob"), (False, "FailJob")]


def test_kueue_gets_a_suspended_job_with_its_queues_name() -> None:
    document = planned(job(), kueue_queue="research")
    assert document["spec"]["suspend"] is True
    assert document["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert "kueue.x-k8s.io/queue-name" not in document["spec"]["template"]["metadata"]["labels"]


def test_a_jobset_restarts_all_nodes_and_tells_them_how_often() -> None:
    document = planned(job(resources=Resources(nodes=3), max_retries=2), render="jobset", kueue_queue="q")
    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert document["spec"]["failurePolicy"] == {"maxRestarts": 2}
    assert document["spec"]["suspend"] is True
    (replicated,) = document["spec"]["replicatedJobs"]
    assert replicated["template"]["spec"]["completions"] == replicated["template"]["spec"]["parallelism"] == 3
    variables = {one["name"]: one for one in replicated["template"]["spec"]["template"]["spec"]["containers"][0]["env"]}
    path = variables["TUNEWRIGHT_START_FAILURES"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.labels['jobset.sigs.k8s.io/restart-attempt']"
    assert variables["TUNEWRIGHT_START_MASTER"]["value"] == "<name>-node-0-0.<name>"


def test_a_trainjob_brings_its_command_in_letters_that_nothing_expands() -> None:
    document = planned(job(resources=Resources(nodes=2)), render="trainjob", runtime="mine", gpus=8)
    assert (document["apiVersion"], document["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    trainer = document["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["image"]) == (2, IMAGE)
    assert trainer["resourcesPerNode"]["limits"] == {"nvidia.com/gpu": "8"}
    assert document["spec"]["runtimeRef"]["name"] == "mine"
    assert not any("$" in one.get("value", "") for one in trainer["env"])
    assert document["spec"]["podTemplateOverrides"][0]["spec"]["containers"][0]["volumeMounts"]


def test_every_problem_of_a_job_is_named_at_once() -> None:
    broken = job(
        environment=None,
        command=("x", "a\0b"),
        variables={"A.B": "1", "C": "\0", "D": "", "TUNEWRIGHT_NODE_RANK": "0"},
        secrets={"D": "s", "E": "No Such/key"},
        model=ModelReference(name_or_path="/models/tiny"),
        max_retries=1,
    )
    wrong = {"mounts": ("/a:/x", "/b:/x"), "render": "trainjob", "time_limit_seconds": 5, "user": "0"}
    with pytest.raises(InvalidExperiment) as caught:
        plan_objects(broken, KubernetesOptions(**wrong))  # type: ignore[arg-type]  # of many types
    assert [problem.path for problem in caught.value.problems] == [
        "cluster.options.image", "command[1]", "cluster.environment", "cluster.environment.C",
        "cluster.environment.TUNEWRIGHT_NODE_RANK", "cluster.secrets.D", "cluster.secrets.E", "cluster.options.mounts",
        "cluster.options.mounts", "cluster.options.mounts[1]", "cluster.max_retries", "cluster.options.user",
        "cluster.options.time_limit_seconds",
    ]  # fmt: skip


def test_a_pex_is_refused_and_so_is_a_command_that_does_not_fit() -> None:
    pex = EnvironmentRef(kind="pex", key="k", reference="/x.pex", command=("/x.pex",))
    with pytest.raises(InvalidExperiment, match=r"environment\.kind"):
        plan_objects(job(environment=pex), options())
    with pytest.raises(InvalidExperiment, match="128 KiB"):
        plan_objects(job(command=("x", "y" * 140_000)), options())


@pytest.mark.parametrize(
    ("given_options", "path"),
    [
        ({"memory_gib": 0}, "memory_gib"),
        ({"namespace": "Training"}, "namespace"),
        ({"tolerations": ["a:Never"]}, "tolerations[0]"),
        ({"tolerations": ["a", "b c"]}, "tolerations[1]"),
        ({"mounts": ["claim:Home:/home"]}, "mounts[0]"),
        ({"mounts": ["claim:home/../x:/home"]}, "mounts[0]"),
        ({"mounts": ["scratch:none:/tmp/x"]}, "mounts[0]"),
        ({"mounts": ["/a:b"]}, "mounts[0]"),
        ({"mounts": ["/a:/"]}, "mounts[0]"),
        ({"mounts": ["/a"]}, "mounts[0]"),
        ({"render": "deployment"}, "render"),
        ({"secret": "A"}, "secret"),
        ({"user": "me"}, "user"),
        ({"labels": {"a b": "c"}}, "labels"),
        ({"kueue_queue": "-"}, "kueue_queue"),
    ],
)
def test_a_bad_option_is_named_as_the_user_wrote_it(given_options: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidExperiment) as caught:
        parse_spec(KubernetesOptions, given_options, "experiment.toml", "cluster.options")
    assert f"cluster.options.{path}" in str(caught.value)


def test_a_thousand_jobs_are_planned_quickly() -> None:
    started = time.process_time()
    for number in range(200):
        plan_objects(job(run=f"r{number}"), options())
    assert (time.process_time() - started) / 200 < 0.005


def test_the_clients_file_says_where_the_job_goes() -> None:
    plan = plan_objects(job(secrets={"A": "key", "B": "name/key"}), options(namespace="n", kubeconfig="~/k"))
    document = json.loads(plan.text_of(PLAN_FILE))
    assert document["secrets"] == {"A": "tunewright/key", "B": "name/key"}
    assert (document["namespace"], document["kubeconfig"], document["context"]) == ("n", "~/k", None)
