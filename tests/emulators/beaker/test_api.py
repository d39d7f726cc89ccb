from __future__ import annotations

import time
from pathlib import Path

import grpc
import pytest
from beaker import Beaker, BeakerExperimentSpec, BeakerSortOrder
from beaker.exceptions import (
    BeakerClientError,
    BeakerDatasetConflict,
    BeakerDatasetWriteError,
    BeakerError,
    BeakerExperimentConflict,
    BeakerGroupNotFound,
    BeakerImageNotFound,
    BeakerPermissionsError,
    BeakerSecretNotFound,
    BeakerWorkloadNotFound,
    BeakerWorkspaceNotFound,
)
from servers.beaker_emulator import beaker_client, beaker_emulator

from emulators.beaker.experiments import Status, ended, experiment, run, task

pytestmark = pytest.mark.timeout(180)

_PAGE = 50


def test_the_client_learns_who_it_is_and_what_there_is(client: Beaker) -> None:
    assert (client.user_name, client.org_name) == ("tester", "ai2")
    assert client.workspace.get().name == "ai2/testing"
    assert client.user.get(include_user_details=True).user_details.email == "tester@example.org"
    assert [cluster.name for cluster in client.cluster.list()] == ["cpus", "gpus"]
    assert client.cluster.get("ai2/gpus-emulated").id == client.cluster.get("ai2/gpus").id
    assert [node.hostname for node in client.node.list(cluster=client.cluster.get("ai2/gpus"))] == [
        "127.0.1.1",
        "127.0.1.2",
    ]


def test_the_spec_of_an_experiment_comes_back_as_it_was_sent(client: Beaker) -> None:
    spec = experiment(task("true", replicas=2, timeout="1h", result_path="/results"), retries=3, description="words")
    workload = client.experiment.create(spec=spec)
    assert client.experiment.get_spec(workload) == spec
    ended(client, workload)


def test_an_experiment_is_found_by_its_name_and_its_name_only_once(client: Beaker) -> None:
    spec = experiment(task("true"), description="first words")
    workload = client.experiment.create(spec=spec, name="named-once")
    assert client.workload.get("tester/named-once").experiment.id == workload.experiment.id
    with pytest.raises(BeakerExperimentConflict):
        client.experiment.create(spec=spec, name="named-once")
    client.workload.update(workload, description="other words")
    found = list(client.workload.list(name_or_description="other words"))
    assert [one.experiment.id for one in found] == [workload.experiment.id]
    ended(client, workload)
    client.workload.delete(workload)
    with pytest.raises(BeakerWorkloadNotFound):
        client.workload.get(workload.experiment.id)


def test_lists_come_in_pages_in_the_order_asked_for(client: Beaker) -> None:
    names = [f"page-{number:03}" for number in range(_PAGE + 5)]
    for name in names:
        client.secret.write(name, "x")
    told = [secret.name for secret in client.secret.list() if secret.name.startswith("page-")]
    assert told == names
    backwards = client.secret.list(sort_order=BeakerSortOrder.descending)
    assert [secret.name for secret in backwards if secret.name.startswith("page-")] == names[::-1]
    assert len(list(client.secret.list(limit=3))) == 3


def test_secrets_are_written_read_and_forgotten(client: Beaker) -> None:
    first = client.secret.write("kept", "one")
    second = client.secret.write("kept", "zwei ☃")
    assert second.created == first.created and second.updated.ToNanoseconds() > first.updated.ToNanoseconds()
    assert client.secret.read(second) == "zwei ☃"
    client.secret.delete(second)
    with pytest.raises(BeakerSecretNotFound):
        client.secret.get("kept")


def test_a_dataset_of_chunks_is_read_back_whole_and_in_parts(client: Beaker, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.write_bytes(bytes(range(256)) * (40 << 12))  # 40 MiB: the client sends 32 MiB at a time
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "small").write_text("small")
    dataset = client.dataset.create("chunks", big, tmp_path / "folder", strip_paths=True, target="at")
    assert [(file.path, file.size) for file in client.dataset.list_files(dataset)] == [
        ("at/big", 40 << 20),
        ("at/small", 5),
    ]
    assert b"".join(client.dataset.stream_file(dataset, "at/big")) == big.read_bytes()
    part = b"".join(client.dataset.stream_file(dataset, "at/big", offset=1000, length=70))
    assert part == big.read_bytes()[1000:1070]
    with pytest.raises(BeakerDatasetConflict):
        client.dataset.create("chunks")


def test_a_committed_dataset_is_not_written_any_more(client: Beaker) -> None:
    dataset = client.dataset.create("closed", commit=False)
    client.dataset.upload(dataset, b"one", "file")
    client.dataset.commit(dataset)
    with pytest.raises(BeakerDatasetWriteError):
        client.dataset.upload(dataset, b"two", "file")  # as somebody who does not know that it is
    assert b"".join(client.dataset.stream_file(client.dataset.get("tester/closed"), "file")) == b"one"


def test_results_are_told_apart_from_datasets_that_users_made(client: Beaker) -> None:
    job = run(client, experiment(task("true")))
    made = client.dataset.create("made-by-hand")
    results = {dataset.id for dataset in client.dataset.list(results=True, sort_field="created")}
    others = {dataset.id for dataset in client.dataset.list(results=False, sort_field="created")}
    assert job.assignment_details.result_dataset_id in results
    assert made.id in others and not results & others


def test_images_are_made_committed_and_found_by_description(client: Beaker) -> None:
    workspace_id = client.workspace.get().id
    body = {"workspace": workspace_id, "imageId": "sha256:0", "imageTag": "some:tag", "description": "commit abc123"}
    made = client.image.http_request("images", method="POST", data=body, query={"name": "by-digest"}).json()
    image = client.image.get(made["id"])
    assert not image.HasField("committed")
    assert [found.id for found in client.image.list(name_or_description="commit abc123")] == [image.id]
    with pytest.raises(BeakerError, match="not committed"):
        client.experiment.create(spec=BeakerExperimentSpec.new(beaker_image="tester/by-digest", cluster="ai2/cpus"))
    assert client.image.commit(image).HasField("committed")
    assert client.image.get("tester/by-digest").description == "commit abc123"
    client.image.delete(image)
    with pytest.raises(BeakerImageNotFound):
        client.image.get("tester/by-digest")


def test_groups_hold_experiments_and_their_metrics(client: Beaker, tmp_path: Path) -> None:
    group = client.group.create("sweep", description="all points")
    out = tmp_path / "out"
    spec = experiment(task(f"echo '{{\"loss\": 0.25}}' > {out}/metrics.json", result_path=str(out)), groups=[group.id])
    workload = ended(client, client.experiment.create(spec=spec))
    (row,) = client.group.list_task_metrics(client.group.get(group.id))
    assert (row.experiment_id, row.metrics[0].group_parameter.name) == (workload.experiment.id, "loss")
    assert row.metrics[0].value.number_value == 0.25
    assert [found.name for found in client.group.list(name_or_description="all points")] == ["sweep"]
    client.group.delete(group)
    with pytest.raises(BeakerGroupNotFound):
        client.group.get(group.id)


def test_workspaces_are_made_and_have_secrets_of_their_own(client: Beaker) -> None:
    workspace = client.workspace.create("ai2/second", description="another")
    client.secret.write("only-here", "x", workspace=workspace)
    assert [secret.name for secret in client.secret.list(workspace=workspace)] == ["only-here"]
    with pytest.raises(BeakerSecretNotFound):
        client.secret.get("only-here")
    with pytest.raises(BeakerWorkspaceNotFound):
        client.workspace.get("ai2/none-such")
    with pytest.raises(BeakerError, match="budget is required"):
        client.experiment.create(spec=experiment(task("true")), workspace=workspace)


def test_events_tell_the_story_of_a_job(client: Beaker) -> None:
    job = run(client, experiment(task("true")))
    told = {event.status for event in client.job.list_summarized_events(job)}
    assert told == {"created", "scheduled", "started", "finalized"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpus": 3}, "tasks.0.gpus: unknown field"),
        ({"image": {}}, "tasks.0.image: exactly one of beaker, docker"),
        ({"replicas": 0}, "tasks.0.replicas"),
        ({"leaderSelection": True}, "leaderSelection needs replicas and hostNetworking"),
        ({"resources": {"memory": "lots"}}, "tasks.0.resources.memory: 'lots' is no size"),
        ({"context": {"priority": "extreme"}}, "tasks.0.context.priority"),
        ({"context": {"preemptible": True, "autoResume": True}}, "preemptible is deprecated"),
        ({"constraints": {"cluster": ["ai2/none"]}}, "cluster 'ai2/none' not found"),
        ({"constraints": {"hostname": ["none"]}}, "node 'none' not found"),
        ({"envVars": [{"name": "A", "secret": "none-such"}]}, "secret 'none-such' not found"),
        ({"envVars": [{"name": "1A", "value": "x"}]}, "'1A' is no name of an environment variable"),
        ({"datasets": [{"mountPath": "/x", "source": {"result": "later"}}]}, "which is no earlier task"),
        ({"datasets": [{"mountPath": "/x", "source": {"beaker": "none"}}]}, "dataset 'none' not found"),
        ({"datasets": [{"mountPath": "x", "source": {"weka": "a"}}]}, "mountPath 'x' is not an absolute path"),
        ({"datasets": [{"mountPath": "/x", "source": {"weka": "a"}, "mode": "readonly"}]}, "only be mounted readwrite"),
        ({"timeout": "soon"}, "'soon' is no duration"),
    ],
)
def test_a_spec_that_cannot_be_meant_is_refused_and_nothing_is_made(
    client: Beaker, change: dict[str, object], said: str
) -> None:
    body = {"version": "v2", "tasks": [{"image": {"docker": "x"}, "context": {}, "command": ["true"], **change}]}
    before = len(list(client.workload.list()))
    with pytest.raises(BeakerError) as refused:
        client.experiment.http_request(f"workspaces/{client.workspace.get().id}/experiments", method="POST", data=body)
    assert said in str(refused.value)
    assert len(list(client.workload.list())) == before


def test_a_call_that_is_not_emulated_says_so_by_its_name(client: Beaker) -> None:
    with pytest.raises(NotImplementedError, match="the emulator does not have CreateQueue"):
        client.queue.create("queue", input_schema={}, output_schema={})
    with pytest.raises(Exception, match="the emulator does not have GET /api/v3/nothing"):
        client.workload.http_request("nothing", timeout=5)


def test_a_wrong_request_is_a_clients_error(client: Beaker) -> None:
    workload = client.experiment.create(spec=experiment(task("sleep 300")))
    with pytest.raises(BeakerClientError, match="has not ended"):
        client.workload.delete(workload)
    client.workload.cancel(workload)
    assert ended(client, workload).status == Status.STATUS_CANCELED


def test_users_without_permission_and_strangers_are_turned_away(tmp_path: Path) -> None:
    fleet = tmp_path / "fleet.yml"
    fleet.write_text(
        "organization: ours\n"
        "users: [{name: reader, token: abc}, {name: owner, token: def}]\n"
        "budgets: [money]\n"
        "workspaces: [{name: closed, budget: money, writers: [owner], maximum_priority: normal}]\n"
        "clusters: [{name: only, nodes: [{hostname: localhost}]}]\n"
    )
    with beaker_emulator(tmp_path / "state", fleet) as running, beaker_client(running) as reader:
        with pytest.raises(BeakerPermissionsError, match="'reader' does not have permission"):
            reader.secret.write("name", "value")
        with pytest.raises(BeakerPermissionsError):
            reader.workspace.update(description="mine")
        reader.config.user_token = "def"
        assert reader.secret.write("name", "value").name == "name"
        with pytest.raises(BeakerError, match="priority 'high' is above the highest"):
            reader.experiment.create(spec=experiment(task("true", cluster="ours/only", priority="high")))
        reader.config.user_token = "stolen"
        with pytest.raises(grpc.RpcError, match="invalid token"):
            reader.user.get()


def test_what_it_knows_and_what_it_runs_outlive_the_server(tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = ("--keep-jobs", "--grace", "1")
    with beaker_emulator(state, options=options) as running, beaker_client(running) as client:
        client.secret.write("kept", "over the restart")
        workload = client.experiment.create(spec=experiment(task("echo before; sleep 3; echo after")), name="survivor")
        while client.workload.get_latest_job(workload).status.status != Status.STATUS_RUNNING:  # type: ignore[union-attr]
            time.sleep(0.05)
    with beaker_emulator(state, options=options) as running, beaker_client(running) as client:
        assert client.secret.read(client.secret.get("kept")) == "over the restart"
        workload = ended(client, client.workload.get("tester/survivor"))
        assert workload.status == Status.STATUS_SUCCEEDED
        job = client.workload.get_latest_job(workload)
        assert job is not None
        assert [line.message for line in client.job.logs(job)] == [b"before", b"after"]
