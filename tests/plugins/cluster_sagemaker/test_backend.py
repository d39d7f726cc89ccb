"""What is asked of AWS, how often, and what is said where it does not answer; what the start program does."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import boto3
import pytest
from servers.object_store import ObjectStore

from plugins.cluster_sagemaker.sagemaker_jobs import job, options
from tunewright.clusters.sagemaker import start
from tunewright.clusters.sagemaker.backend import SageMakerCluster
from tunewright.contracts.errors import Unavailable
from tunewright.contracts.jobs import JobHandle, JobSpec
from tunewright.contracts.status import JobState, JobStatus

pytestmark = pytest.mark.timeout(120)


def submit(tmp_path: Path, number: int, *command: str, **fields: Any) -> JobHandle:
    one = job(
        run=f"many-{number}", run_dir=str(tmp_path / "home" / "runs" / f"many-{number}"), command=command, **fields
    )
    return SageMakerCluster().submit(SageMakerCluster().plan(one, options(python="python3.11")), "key")


def wait(*handles: JobHandle) -> list[JobStatus]:
    cluster = SageMakerCluster()
    for _ in range(400):
        told = cluster.status(handles)
        if all(status.state.is_terminal for status in told.values()):
            return list(told.values())
        time.sleep(0.05)
    raise AssertionError(f"the jobs do not end: {told}")


@pytest.mark.usefixtures("aws")
def test_many_jobs_are_asked_for_in_one_call_and_one_for_each_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles = [submit(tmp_path, number, "sh", "-c", f"exit {number}") for number in range(3)]
    wait(*handles)
    calls: list[str] = []
    cluster = SageMakerCluster()
    client = cluster._service("us-east-1")._sagemaker
    client.meta.events.register("before-call", lambda model, **_: calls.append(model.name))
    statuses = cluster.status(handles)
    assert [status.exit_code for status in statuses.values()] == [0, 1, 2]
    assert calls == ["ListTrainingJobs", "DescribeTrainingJob", "DescribeTrainingJob"]


@pytest.mark.usefixtures("aws")
def test_a_job_finds_its_runs_files_and_leaves_what_it_writes_where_sagemaker_copies_it(tmp_path: Path) -> None:
    one = submit(tmp_path, 7, "sh", "-c", 'cd "$0" && cp job.json found.json && cat sagemaker/*/attempts-0',
                 str(tmp_path / "home" / "runs" / "many-7"))  # fmt: skip
    assert wait(one)[0].state is JobState.SUCCEEDED
    run_dir = tmp_path / "home" / "runs" / "many-7"
    assert run_dir.is_symlink() and run_dir.readlink().name == "checkpoints"
    found = JobSpec.model_validate_json((run_dir / "found.json").read_bytes())
    assert (found.run, found.run_dir) == ("many-7", str(run_dir))
    assert b"".join(SageMakerCluster().logs(one)) == b"1\n"


def test_an_address_that_does_not_answer_is_unavailable_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    handle = JobHandle(cluster="sagemaker", native_id="x", data=json.dumps({"region": "us-east-1", "nodes": 1}))
    with pytest.raises(Unavailable, match="does not answer"):
        SageMakerCluster().status([handle])


def test_check_says_that_there_are_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [finding.code for finding in SageMakerCluster().check()] == ["aws-credentials-missing"]
    monkeypatch.setenv("AWS_PROFILE", "mine")
    assert not SageMakerCluster().check()


def test_the_page_of_a_job_is_known_without_asking() -> None:
    handle = JobHandle(cluster="sagemaker", native_id="r-1", data='{"region": "eu-west-1", "nodes": 1}')
    page = "https://eu-west-1.console.aws.amazon.com/sagemaker/home?region=eu-west-1#/jobs/r-1"
    assert SageMakerCluster().url(handle) == page


@pytest.mark.usefixtures("aws")
def test_a_secret_that_is_gone_when_the_job_starts_ends_it_in_words(tmp_path: Path, aws: ObjectStore) -> None:
    client = boto3.client("secretsmanager")
    client.create_secret(Name="binary", SecretBinary=b"\0")  # it is there, and is no text
    status = wait(submit(tmp_path, 8, "true", secrets={"TOKEN": "binary"}))[0]
    assert (status.state, status.exit_code) == (JobState.FAILED, 78)
    assert "cannot read the secret `binary`" in status.message


def test_a_tenth_node_comes_after_the_ninth() -> None:
    hosts = [f"algo-{number}" for number in (1, 10, 2)]  # as SageMaker sorts them
    ordered = start.in_order(hosts)
    assert start.rendezvous(ordered, ordered.index("algo-10"), 3) == {
        "TUNEWRIGHT_ATTEMPT": "3", "TUNEWRIGHT_NODE_RANK": "2", "TUNEWRIGHT_MASTER_ADDRESS": "algo-1",
        "TUNEWRIGHT_MASTER_PORT": "29500",
    }  # fmt: skip


def test_attempts_are_counted_over_starts_of_the_container(tmp_path: Path) -> None:
    assert [start.Attempts(tmp_path / "job" / "attempts-0").begin() for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("memory.events", "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ("memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
    ],
)
def test_the_kernels_kills_for_memory_are_counted_in_both_versions_of_groups(
    name: str, text: str, tmp_path: Path
) -> None:
    assert start.num_memory_kills(str(tmp_path)) == 0
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert start.num_memory_kills(str(tmp_path)) == 2


@pytest.mark.parametrize(
    ("code", "attempt", "nodes", "is_stopped", "expected"),
    [
        (9, 0, 1, False, True), (137, 1, 1, False, True), (9, 2, 1, False, False), (0, 0, 1, False, False),
        (78, 0, 1, False, False), (75, 0, 1, True, False), (9, 0, 2, False, False),
    ],
)  # fmt: skip
def test_a_command_is_started_again_where_that_may_help(
    code: int, attempt: int, nodes: int, is_stopped: bool, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    stopped = start.Stopped()
    stopped.is_asked_for = is_stopped
    assert start.is_tried_again({"nodes": nodes, "max_retries": 2}, code, attempt, stopped) is expected
