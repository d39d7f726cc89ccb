"""The plan of a job in containers: what Docker gets, and what it cannot do. Needs no daemon."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tunewright.clusters.docker.options import DockerOptions
from tunewright.clusters.docker.plan import plan_containers
from tunewright.clusters.docker.start_program import PLAIN, WITH_SECRETS
from tunewright.clusters.docker.supervision.containers import container_body, job_id, network_body
from tunewright.contracts.datasets import CachedDataset
from tunewright.contracts.environments import CodeOrigin, EnvironmentRef
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.experiment_file import parse_spec
from tunewright.contracts.jobs import JobSpec, LaunchOrigin, ModelReference, Resources

IMAGE = f"example/trainer@sha256:{'a' * 64}"
KNOWN = {"id": "tunewright-r-1", "key": "k", "image": "sha256:b", "user": "1000:100"}


def job(**fields: Any) -> JobSpec:
    environment = EnvironmentRef(kind="image", key="k", reference=IMAGE, command=("/app/pex",))
    base = {"run": "r", "run_dir": "/home/runs/r", "command": ("/app/pex", "train", "x y"), "environment": environment}
    return JobSpec(**{**base, **fields})


def container(job: JobSpec, rank: int = 0, **options: Any) -> dict[str, Any]:
    planned: dict[str, Any] = json.loads(plan_containers(job, DockerOptions(**options)).text_of(f"node-{rank}.json"))
    return planned


def test_what_it_is_evaluated_on_is_mounted_as_the_dataset_is_and_once_where_both_are_one() -> None:
    dataset, other = (CachedDataset(digest=name, path=f"/cache/{name}") for name in "de")
    remote = CachedDataset(digest="f", path="s3://bucket/f")
    expected = {other.path: ["/cache/d", "/cache/e"], dataset.path: ["/cache/d"], remote.path: ["/cache/d"]}
    for evaluation in (other, dataset, remote):
        mounts = container(job(dataset=dataset, evaluation_dataset=evaluation))["HostConfig"]["Mounts"]
        read_only = [mount["Target"] for mount in mounts if mount["ReadOnly"]]
        assert read_only == expected[evaluation.path]


def test_a_containers_file_is_what_docker_is_asked_for() -> None:
    whole = job(
        variables={"B": "2", "A": "1"},
        dataset=CachedDataset(digest="d", path="/cache/d"),
        model=ModelReference(name_or_path="/models/tiny"),
        origin=LaunchOrigin(code=CodeOrigin(commit="c" * 40), user="u", host="h", plugins={}),
    )
    planned = container(whole, memory_gib=2, cpus=1.5, mounts=["/mine:/theirs:ro"])
    assert planned == {
        "Image": IMAGE,
        "Entrypoint": ["/bin/sh", "-c", PLAIN, "/home/runs/r/logs/replica-0.log"],
        "Cmd": ["/app/pex", "train", "x y"],
        "Env": ["A=1", "B=2", "HOME=/tmp", "LANG=C.UTF-8", "TUNEWRIGHT_ATTEMPT=<attempt>", "USER=tunewright"],
        "User": "<owner of the run's directory>",
        "WorkingDir": "/home/runs/r",
        "Hostname": "node-0",
        "Labels": {
            "ai.tunewright.run": "r",
            "ai.tunewright.run_dir": "/home/runs/r",
            "ai.tunewright.id": "<id>",
            "ai.tunewright.key": "<key>",
            "ai.tunewright.commit": "c" * 40,
            "ai.tunewright.node": "0",
            "ai.tunewright.attempt": "<attempt>",
        },
        "HostConfig": {
            "Mounts": [
                {"Type": "bind", "Source": "/home/runs/r", "Target": "/home/runs/r", "ReadOnly": False},
                {"Type": "bind", "Source": "/cache/d", "Target": "/cache/d", "ReadOnly": True},
                {"Type": "bind", "Source": "/models/tiny", "Target": "/models/tiny", "ReadOnly": True},
                {"Type": "bind", "Source": "/mine", "Target": "/theirs", "ReadOnly": True},
            ],
            "Init": True,
            "ShmSize": 4 << 30,
            "NetworkMode": "bridge",
            "RestartPolicy": {"Name": "no"},
            "LogConfig": {"Type": "json-file", "Config": {}},
            "Memory": 2 << 30,
            "MemorySwap": 2 << 30,
            "NanoCpus": 1_500_000_000,
        },
    }


def test_the_supervisors_file_has_what_the_containers_do_not_say() -> None:
    plan = plan_containers(job(secrets={"T": "name"}, max_retries=2), DockerOptions(time_limit_seconds=60))
    assert json.loads(plan.files[0].text) == {
        "run": "r",
        "run_dir": "/home/runs/r",
        "nodes": ["node-0.json"],
        "logs": ["/home/runs/r/logs/replica-0.log"],
        "network": None,
        "secrets": {"T": "name"},
        "max_retries": 2,
        "time_limit_seconds": 60.0,
        "stop_grace_seconds": 10.0,
        "memory_gib": None,
        "keep_containers": False,
    }


def test_a_job_with_secrets_reads_them_from_its_input_and_the_others_have_none() -> None:
    with_secrets, without = container(job(secrets={"T": "name"})), container(job())
    assert with_secrets["Entrypoint"][2] == WITH_SECRETS
    assert (with_secrets["OpenStdin"], with_secrets["StdinOnce"]) == (True, True)
    assert "OpenStdin" not in without
    assert "name" not in json.dumps(with_secrets["Env"])


def test_several_nodes_share_a_network_and_know_node_0_by_name() -> None:
    several = job(resources=Resources(nodes=2))
    plan = plan_containers(several, DockerOptions())
    assert [file.name for file in plan.files] == ["docker.json", "node-0.json", "node-1.json"]
    assert json.loads(plan.files[0].text)["network"]["Driver"] == "bridge"
    second = container(several, 1)
    assert second["HostConfig"]["NetworkMode"] == "<network>"
    assert second["NetworkingConfig"] == {"EndpointsConfig": {"<network>": {"Aliases": ["node-1"]}}}
    told = {"TUNEWRIGHT_NODE_RANK=1", "TUNEWRIGHT_MASTER_ADDRESS=node-0", "TUNEWRIGHT_MASTER_PORT=29500"}
    assert told <= set(second["Env"])
    assert second["Entrypoint"][3] == "/home/runs/r/logs/replica-1.log"


def test_only_the_submissions_words_are_filled_in() -> None:
    command = ("echo", "<key>", "<attempt>", "TUNEWRIGHT_ATTEMPT=<attempt>")
    several = job(resources=Resources(nodes=2), command=command, variables={"A": "<key>"})
    planned = container(several)
    body = container_body(planned, KNOWN, 3)
    assert body["Cmd"] == list(command)
    assert {"A=<key>", "TUNEWRIGHT_ATTEMPT=3"} <= set(body["Env"])
    assert (body["Image"], body["User"]) == ("sha256:b", "1000:100")
    labels = body["Labels"]
    assert (labels["ai.tunewright.id"], labels["ai.tunewright.key"]) == ("tunewright-r-1", "k")
    assert (labels["ai.tunewright.attempt"], labels["ai.tunewright.image"]) == ("3", IMAGE)
    assert body["HostConfig"]["NetworkMode"] == "tunewright-r-1"
    assert list(body["NetworkingConfig"]["EndpointsConfig"]) == ["tunewright-r-1"]
    assert planned == container(several)  # and the plan is as it was
    network = json.loads(plan_containers(several, DockerOptions()).files[0].text)["network"]
    assert network_body(network, KNOWN)["Name"] == "tunewright-r-1"
    assert network_body(network, KNOWN)["Labels"]["ai.tunewright.key"] == "k"


def test_a_user_that_was_asked_for_is_the_user() -> None:
    assert container_body(container(job(), user="7:8"), KNOWN, 0)["User"] == "7:8"


def test_submissions_of_other_homes_and_keys_have_other_names() -> None:
    names = {job_id("r", "/a/runs/r", "k"), job_id("r", "/b/runs/r", "k"), job_id("r", "/a/runs/r", "l")}
    assert len(names) == 3
    assert job_id("a/b é", "/", "k").startswith("tunewright-a-b---")


@pytest.mark.parametrize(
    ("gpus", "nodes", "shares"),
    [
        ("all", 2, [{"Count": -1}] * 2),
        (2, 1, [{"Count": 2}]),
        (2, 2, [{"DeviceIDs": ["0", "1"]}, {"DeviceIDs": ["2", "3"]}]),
        (["5", "GPU-x"], 1, [{"DeviceIDs": ["5", "GPU-x"]}]),
        (["5", "7"], 2, [{"DeviceIDs": ["5"]}, {"DeviceIDs": ["7"]}]),
    ],
)
def test_gpus_are_divided_among_the_nodes(gpus: Any, nodes: int, shares: list[dict[str, Any]]) -> None:
    several = job(resources=Resources(nodes=nodes))
    asked = [container(several, rank, gpus=gpus)["HostConfig"]["DeviceRequests"] for rank in range(nodes)]
    assert asked == [[{"Capabilities": [["gpu"]], **share}] for share in shares]


def test_without_gpus_no_device_is_asked_for() -> None:
    assert "DeviceRequests" not in container(job())["HostConfig"]


def test_every_problem_of_a_job_is_named_at_once() -> None:
    broken = job(
        environment=None,
        resources=Resources(nodes=2),
        command=("x", "a\0b"),
        variables={"A.B": "1", "C": "\0", "D": "", "PWD": "/", "TUNEWRIGHT_NODE_RANK": "0"},
        secrets={"D": "s"},
    )
    options = DockerOptions(network="host", gpus=("0",), mounts=("/a:/home/runs/r", "/b:/x", "/c:/x/"))
    with pytest.raises(InvalidExperiment) as caught:
        plan_containers(broken, options)
    assert [problem.path for problem in caught.value.problems] == [
        "cluster.options.image", "cluster.options.network", "cluster.options.gpus", "command[1]", "cluster.environment",
        "cluster.environment.C", "cluster.environment.TUNEWRIGHT_NODE_RANK", "cluster.secrets.D",
        "cluster.environment.PWD", "cluster.options.mounts[0]", "cluster.options.mounts[2]",
    ]  # fmt: skip


def test_a_pex_is_refused_and_so_are_two_images() -> None:
    pex = EnvironmentRef(kind="pex", key="k", reference="/x.pex", command=("/x.pex",))
    with pytest.raises(InvalidExperiment, match=r"environment\.kind"):
        plan_containers(job(environment=pex), DockerOptions())
    with pytest.raises(InvalidExperiment, match=r"cluster\.options\.image"):
        plan_containers(job(), DockerOptions(image="another"))


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"memory_gib": 0}, "memory_gib"),
        ({"cpus": "many"}, "cpus"),
        ({"gpus": "some"}, "gpus"),
        ({"gpus": 0}, "gpus"),
        ({"network": "bridge"}, "network"),
        ({"user": "a b"}, "user"),
        ({"mounts": ["relative:/x"]}, "mounts[0]"),
        ({"mounts": ["/a:/b", "/a"]}, "mounts[1]"),
        ({"mounts": ["/a:/b:rx"]}, "mounts[0]"),
        ({"mounts": ["/a:/b/../c"]}, "mounts[0]"),
        ({"mounts": ["/a:/"]}, "mounts[0]"),
        ({"memory": 1}, "memory"),
    ],
)
def test_a_bad_option_is_named_as_the_user_wrote_it(options: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidExperiment) as caught:
        parse_spec(DockerOptions, options, "experiment.toml", "cluster.options")
    assert f"cluster.options.{path}" in str(caught.value)
