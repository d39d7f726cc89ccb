"""The plan of cluster `beaker`: an experiment in Beaker's own words, every byte of the job in it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from beaker import BeakerExperimentSpec

from plugins.cluster_beaker.beaker_jobs import RUN_DIR, job, options, plan, spec_of, submission_of, task_of
from tunewright.clusters.beaker.encoding import MARK, carried
from tunewright.clusters.beaker.plan import SPEC_FILE
from tunewright.clusters.beaker.start_program import decode
from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.jobs import JobSpec

DIGEST = "0123456789abcdef" * 4
AWKWARD = (
    "",
    " ",
    'it\'s "so"',
    "$HOME",
    "${x}",
    "a\nb",
    "\t",
    "\\n",
    "é",
    "日本",
    "🎉",
    "\x01",
    "base64:x",
    "{{x}}",
    "-x",
)


def image(reference: str = f"sha256:{DIGEST}", kind: str = "image") -> EnvironmentRef:
    return EnvironmentRef.model_validate(
        {"kind": kind, "key": "f" * 64, "reference": reference, "command": ["trainer"], "commit": "c" * 40}
    )


def refusal(one: JobSpec, **changes: Any) -> str:
    with pytest.raises(InvalidExperiment) as caught:
        plan(one, options(**changes))
    return str(caught.value)


def written_back(spec: BeakerExperimentSpec) -> Any:
    """As JSON. The client 2.8.1 reads a mount's `hostPath` as `host_path` and writes that: its own fault, put right."""
    return json.loads(json.dumps(spec.to_json()).replace('"host_path"', '"hostPath"'))


@pytest.mark.parametrize("nodes", [1, 4])
def test_beakers_client_reads_the_planned_file_back_equal(tmp_path: Path, nodes: int) -> None:
    one = job(*AWKWARD[1:], nodes=nodes, variables={"A": "x\ny"}, secrets={"T": "name"}, max_retries=2)
    given = options(
        budget="ai2/x", groups=["ai2/g"], memory_gib=0.5, cpus=3.5, time_limit_seconds=90, min_runtime_seconds=60,
        mounts=["dataset:01ABC#part:/data", "host:/mnt/x:/mnt/x:ro"], synchronized_start_timeout_seconds=600,
    )  # fmt: skip
    path = tmp_path / "experiment.json"
    path.write_text(plan(one, given).text_of(SPEC_FILE))
    document = json.loads(path.read_text())
    # Once as YAML, which is how its tools read files, once as JSON.
    assert written_back(BeakerExperimentSpec.from_file(path)) == document
    assert written_back(BeakerExperimentSpec.from_json(document)) == document


def test_every_argument_and_variable_comes_out_of_the_plan_as_it_went_in() -> None:
    variables = {f"V{number}": text for number, text in enumerate(AWKWARD)}
    task = task_of(job("x", *AWKWARD, variables=variables), options())
    assert [decode(text).decode() for text in task["arguments"][1:]] == ["x", *AWKWARD]
    encoded = json.loads(decode(task["arguments"][0]))["encoded"]
    sent = {one["name"]: one["value"] for one in task["envVars"]}
    read = {name: decode(sent[name]).decode() if name in encoded else sent[name] for name in variables}
    assert read == variables


@pytest.mark.parametrize("text", ["", "$x", "a\nb", "\x01", "base64:eA=="])
def test_what_beaker_could_change_is_carried_encoded(text: str) -> None:
    assert carried(text).startswith(MARK)
    assert decode(carried(text)) == text.encode()


@pytest.mark.parametrize("text", ["a b", "it's", '"', "--x=1", "日本", "a;b|c&d", "`x`"])
def test_what_beaker_carries_can_be_read_in_the_plan(text: str) -> None:
    assert carried(text) == text


def test_the_command_is_a_list_that_no_shell_sees() -> None:
    task = task_of(job("python", "-c", "print(1); import os"), options(python="/usr/bin/python3.11"))
    assert task["command"][:3] == ["/usr/bin/python3.11", "-I", "-c"]
    assert task["arguments"][1:] == ["python", "-c", "print(1); import os"]


def test_several_nodes_are_replicas_that_begin_and_end_together() -> None:
    one = job(nodes=4, processes=8)
    task = task_of(one, options(gpus=None, synchronized_start_timeout_seconds=600))
    assert (task["replicas"], task["leaderSelection"], task["hostNetworking"]) == (4, True, True)
    assert (task["propagateFailure"], task["propagatePreemption"]) == (True, True)
    assert task["synchronizedStartTimeout"] == 600 * 10**9
    assert task["resources"]["gpuCount"] == 8


def test_one_node_is_no_replica() -> None:
    task = task_of(job(), options())
    assert not {"replicas", "propagateFailure", "propagatePreemption"} & task.keys()
    assert task["leaderSelection"] is False


def test_runs_that_share_a_machine_meet_at_other_ports() -> None:
    ports = set()
    for number in range(20):
        one = job(nodes=2, run_dir=f"{RUN_DIR}-{number}")
        settings = json.loads(task_of(one, options())["arguments"][0])
        ports.add(settings["port"])
        assert 20000 <= int(settings["port"]) < 30000
    assert len(ports) > 15
    settings = json.loads(task_of(job(nodes=2), options(rendezvous_port=29400))["arguments"][0])
    assert settings["port"] == "29400"


@pytest.mark.parametrize(
    ("given", "context"),
    [
        ({}, {"priority": "normal"}),
        ({"priority": "urgent"}, {"priority": "urgent"}),
        ({"min_runtime_seconds": 0}, {"priority": "normal", "minRuntime": 0, "autoResume": True}),
        (
            {"min_runtime_seconds": 1800, "auto_resume": False},
            {"priority": "normal", "minRuntime": 1800 * 10**9, "autoResume": False},
        ),
        ({"preemptible": True}, {"priority": "normal", "preemptible": True}),
    ],
)
def test_preemption_is_said_in_beakers_new_or_old_words(given: dict[str, Any], context: dict[str, Any]) -> None:
    assert task_of(job(), options(**given))["context"] == context


def test_secrets_are_names_the_users_own_first() -> None:
    one = job(secrets={"HF_TOKEN": "hub"})
    assert {"name": "HF_TOKEN", "secret": "<user>_hub | hub"} in task_of(one, options())["envVars"]
    assert {"name": "HF_TOKEN", "secret": "hub"} in task_of(one, options(user_secrets=False))["envVars"]


@pytest.mark.parametrize(
    ("gib", "size"), [(10, "10GiB"), (0.125, "128MiB"), (10.24, "10486MiB"), (1, "1GiB"), (2.5, "2560MiB")]
)
def test_sizes_are_whole_numbers(gib: float, size: str) -> None:
    assert task_of(job(), options(memory_gib=gib))["resources"]["memory"] == size


def test_an_image_that_is_only_here_is_uploaded_under_its_digest() -> None:
    one = job(environment=image())
    assert task_of(one, options(image=None))["image"] == {"beaker": f"<user>/tunewright-{DIGEST[:20]}"}
    upload = submission_of(one, options(image=None))["upload"]
    assert upload == {"reference": f"sha256:{DIGEST}", "commit": "c" * 40}


def test_an_image_of_a_registry_is_pulled_by_its_digest_unless_it_shall_be_uploaded() -> None:
    reference = f"registry.example/trainer@sha256:{DIGEST}"
    one = job(environment=image(reference))
    assert task_of(one, options(image=None))["image"] == {"docker": reference}
    assert submission_of(one, options(image=None))["upload"] is None
    uploaded = task_of(one, options(image=None, image_from="upload"))["image"]
    assert uploaded == {"beaker": f"<user>/tunewright-{DIGEST[:20]}"}


def test_a_pex_runs_in_an_image_of_the_users_choice() -> None:
    pex = "/weka/oe-adapt-default/me/trainer.pex"
    one = job(environment=image(pex, "pex"))
    assert task_of(one, options())["image"] == {"beaker": "me/sft"}
    assert "a PEX needs one" in refusal(one, image=None)
    elsewhere = job(environment=image("/home/me/trainer.pex", "pex"))
    assert "the nodes do not see the PEX, /home/me/trainer.pex" in refusal(elsewhere)


def test_mounts_are_in_beakers_words_those_of_the_table_first() -> None:
    mounts = ["dataset:01ABC:/models", "host:/mnt/x:/mnt/y:ro", "volume:v:/v", "secret:KEY:/run/key", "weka:b#sub:/b"]
    assert task_of(job(), options(mounts=mounts))["datasets"] == [
        {"source": {"weka": "oe-adapt-default"}, "mountPath": "/weka/oe-adapt-default"},
        {"source": {"weka": "oe-training-default"}, "mountPath": "/weka/oe-training-default"},
        {"source": {"beaker": "01ABC"}, "mountPath": "/models"},
        {"source": {"hostPath": "/mnt/x"}, "mountPath": "/mnt/y", "mode": "readonly"},
        {"source": {"volume": "v"}, "mountPath": "/v"},
        {"source": {"secret": "KEY"}, "mountPath": "/run/key"},
        {"source": {"weka": "b"}, "mountPath": "/b", "subPath": "sub"},
    ]


def test_a_run_that_the_nodes_do_not_see_is_refused_with_what_they_see() -> None:
    said = refusal(job(run_dir="/home/me/.tunewright/runs/x"))
    assert "the nodes do not see the run's directory, /home/me/.tunewright/runs/x" in said
    assert "/weka/oe-adapt-default" in said


def test_clusters_that_do_not_share_their_storage_are_refused_by_name() -> None:
    said = refusal(job(), clusters=["ai2/jupiter", "ai2/augusta"])
    assert "the nodes do not see the run's directory" in said
    assert "ai2/augusta shares no storage" in said


def test_a_run_on_storage_that_cannot_be_written_is_refused() -> None:
    said = refusal(job(run_dir="/data/runs/x"), mounts=["host:/data:/data:ro"])
    assert "/data is read-only" in said


def test_clusters_without_a_network_between_nodes_are_refused_without_a_question() -> None:
    said = refusal(job(nodes=2), clusters=["ai2/saturn"])
    assert "cluster.nodes: 2 nodes, but ai2/saturn has no network for it" in said
    assert task_of(job(nodes=2), options(clusters=["ai2/saturn"], allow_slow_network=True))["replicas"] == 2


def test_networks_that_want_different_variables_are_refused_by_the_variables_name() -> None:
    mixed = {
        "clusters": ["ai2/jupiter", "ai2/augusta"],
        "mounts": ["host:/weka/oe-adapt-default:/weka/oe-adapt-default"],
    }
    assert "different values of NCCL_SOCKET_IFNAME" in refusal(job(nodes=2), **mixed)


def test_the_users_variables_win_over_the_tables() -> None:
    one = job(nodes=2, variables={"NCCL_IB_HCA": "mlx5_0"})
    values = {each["name"]: each["value"] for each in task_of(one, options())["envVars"]}
    assert (values["NCCL_IB_HCA"], values["NCCL_SOCKET_IFNAME"]) == ("mlx5_0", "ib")


def test_every_problem_is_told_at_once() -> None:
    one = job("a\0b", run_dir="/home/x", variables={"1A": "x", "TUNEWRIGHT_ATTEMPT": "1"}, secrets={"S": "a b"})
    said = refusal(one, clusters=[], image=None)
    for field in ("clusters", "image", "command[0]", "'1A'", "TUNEWRIGHT_ATTEMPT", "secrets.S", "mounts"):
        assert field in said, f"{field} is not told"


def test_the_description_has_what_the_experiment_is_found_by() -> None:
    assert spec_of(job(), options(tags=["sweep-1", "tulu"]))["description"] == "Tunewright run sft [sweep-1] [tulu]"
    assert spec_of(job(), options(description="mine"))["description"] == "mine"


def test_planning_does_not_import_beakers_client() -> None:
    import subprocess

    code = (
        "import sys; from tunewright.clusters.beaker.backend import BeakerCluster;"
        "from tunewright.clusters.beaker.options import BeakerOptions as O;"
        "from tunewright.contracts.jobs import JobSpec;"
        "o = O(clusters=('ai2/jupiter',), image='me/x');"
        f"BeakerCluster().plan(JobSpec(run='r', run_dir='{RUN_DIR}', command=('x',)), o);"
        "sys.exit(bool({'beaker', 'grpc', 'requests', 'docker'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, timeout=60, check=False)
    assert done.returncode == 0
