"""A compose file says what the job says: same digest, arguments, variables and mounts; secrets by name only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from components.env_builder.checkout import Checkout
from tunewright.contracts.datasets import CachedDataset
from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.errors import UsageError
from tunewright.contracts.experiment import ExperimentSpec
from tunewright.contracts.jobs import JobSpec, Resources
from tunewright.env_builder.images.compose import compose_document, compose_text

IMAGE = f"registry.example/lab/trainer@sha256:{'a' * 64}"


def experiment(options: dict[str, Any]) -> ExperimentSpec:
    document = {
        "schema": 1,
        "name": "one",
        "model": {"name_or_path": "model"},
        "dataset": {"mix": [{"source": "rows.jsonl"}]},
        "training": {"variant": "full", "learning_rate": 1e-3},
        "cluster": {"name": "docker", "options": options},
    }
    return ExperimentSpec.model_validate(document)


def job(**changes: Any) -> JobSpec:
    environment = EnvironmentRef(kind="image", key="k" * 64, reference=IMAGE, command=("/app/pex",), commit="c" * 40)
    values = {
        "run": "My.Run",
        "run_dir": "/runs/my run",
        "command": ("/app/pex", "train", "$HOME/job.json", "a'b\"c", "${NOT_FILLED_IN}"),
        "variables": {"PRICE": "$5", "PLAIN": "value"},
        "secrets": {"HF_TOKEN": "hub-token"},
        "environment": environment,
    }
    return JobSpec(**{**values, **changes})


def test_a_service_is_the_job() -> None:
    document = yaml.safe_load(compose_text(job()))
    assert document["name"] == "my-run"
    (service,) = document["services"].values()
    assert service["image"] == IMAGE
    assert service["entrypoint"] == ["/app/pex"]
    assert service["command"] == ["train", "$$HOME/job.json", "a'b\"c", "$${NOT_FILLED_IN}"]
    assert service["environment"]["PRICE"] == "$$5"
    assert service["environment"]["PLAIN"] == "value"
    assert service["volumes"] == [
        {"type": "bind", "source": "/runs/my run", "target": "/runs/my run", "read_only": False}
    ]
    assert service["labels"] == {"ai.tunewright.run": "My.Run", "ai.tunewright.commit": "c" * 40}


def test_a_secret_is_asked_of_whoever_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_leaked")
    text = compose_text(job())
    assert "hf_leaked" not in text
    assert yaml.safe_load(text)["services"]["node-0"]["environment"]["HF_TOKEN"].startswith("${HF_TOKEN:?")


def test_two_nodes_are_two_services_that_find_each_other() -> None:
    services = compose_document(job(resources=Resources(nodes=2)))["services"]
    assert list(services) == ["node-0", "node-1"]
    ranks = [service["environment"]["TUNEWRIGHT_NODE_RANK"] for service in services.values()]
    assert ranks == ["0", "1"]
    assert {service["environment"]["TUNEWRIGHT_MASTER_ADDRESS"] for service in services.values()} == {"node-0"}


def test_a_job_in_a_pex_has_no_compose_file() -> None:
    pex = EnvironmentRef(kind="pex", key="k", reference="/a.pex", command=("python",))
    with pytest.raises(UsageError, match="runs in pex"):
        compose_text(job(environment=pex))
    with pytest.raises(UsageError, match="runs in nothing"):
        compose_text(job(environment=None))


def test_a_dataset_at_a_url_is_not_mounted_the_job_fetches_it() -> None:
    at_url = CachedDataset(digest="d" * 64, path="s3://lab/datasets/" + "d" * 64)
    (service,) = yaml.safe_load(compose_text(job(dataset=at_url)))["services"].values()
    assert [one["source"] for one in service["volumes"]] == ["/runs/my run"]


def test_what_it_is_evaluated_on_is_mounted_as_the_dataset_is() -> None:
    dataset, other = (CachedDataset(digest=name * 64, path=f"/cache/{name}") for name in "de")
    (service,) = yaml.safe_load(compose_text(job(dataset=dataset, evaluation_dataset=other)))["services"].values()
    assert [one["source"] for one in service["volumes"] if one["read_only"]] == ["/cache/d", "/cache/e"]


def test_limits_gpus_and_mounts_of_the_cluster_are_the_services() -> None:
    options = {"memory_gib": 2, "cpus": 1.5, "shm_gib": 1, "gpus": 2, "mounts": ["/data:/corpora:ro", "/out:/out"]}
    (service,) = compose_document(job(experiment=experiment(options)))["services"].values()
    assert (service["mem_limit"], service["memswap_limit"]) == (f"{2 * 2**30}b", f"{2 * 2**30}b")
    assert (service["cpus"], service["shm_size"]) == (1.5, f"{2**30}b")
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "capabilities": ["gpu"], "count": 2}
    mounted = [(one["source"], one["target"], one["read_only"]) for one in service["volumes"][1:]]
    assert mounted == [("/data", "/corpora", True), ("/out", "/out", False)]


def test_the_command_takes_a_run_its_directory_or_its_job_and_writes_a_file(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "project", tmp_path / "home", tmp_path / "seen")
    checkout.root.mkdir()
    run = checkout.home / "runs/mine"
    run.mkdir(parents=True)
    (run / "job.json").write_text(job(run="mine").model_dump_json(by_alias=True))
    texts = {checkout.call("compose", reference).stdout for reference in ("mine", str(run), str(run / "job.json"))}
    assert texts == {compose_text(job(run="mine"))}
    assert checkout.call("compose", "mine", "-o", str(tmp_path / "compose.yaml")).stdout == ""
    assert (tmp_path / "compose.yaml").read_text() in texts
    assert "no such run" in checkout.call("compose", "absent", expect=66).stderr
    (run / "job.json").write_text("{}")
    checkout.call("compose", "mine", expect=65)
