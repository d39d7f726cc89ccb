"""What a submission does besides sending the plan: names, secrets, images, groups; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from beaker import Beaker
from servers.beaker_emulator import beaker_client

from plugins.cluster_beaker.beaker_jobs import (
    USER,
    WORKSPACE,
    emulated,
    job,
    log,
    plan,
    script,
    status,
    submit,
    wait,
)
from plugins.cluster_beaker.mason_cases import CASES
from tunewright.beaker_emulator.starting import RunningEmulator
from tunewright.clusters.beaker.backend import BeakerCluster
from tunewright.clusters.beaker.options import BeakerOptions
from tunewright.clusters.beaker.plan import SPEC_FILE
from tunewright.clusters.beaker.submission import experiment_name
from tunewright.contracts.errors import SubmissionRefused, Unavailable
from tunewright.contracts.jobs import JobHandle
from tunewright.contracts.status import JobState

pytestmark = pytest.mark.timeout(120)
TELL = "import os; print(os.environ['TOKEN'])"


def write_secret(client: Beaker, name: str, value: str) -> None:
    client.secret.write(name, value, workspace=client.workspace.get(WORKSPACE))


def test_beaker_gets_the_planned_spec_and_nothing_else(emulator: RunningEmulator, tmp_path: Path) -> None:
    one = script(tmp_path, "pass", "it's", "$x", "a\nb", variables={"A": "é", "B": ""})
    handle = submit(tmp_path, one, description="mine", tags=["t"])
    given = BeakerOptions.model_validate(emulated(tmp_path, description="mine", tags=["t"]))
    with beaker_client(emulator) as client:
        workload = client.workload.get(handle.native_id)
        sent = json.loads(json.dumps(client.experiment.get_spec(workload).to_json()).replace("host_path", "hostPath"))
    assert sent == json.loads(plan(one, given).text_of(SPEC_FILE))
    assert workload.experiment.description == "mine [t]"
    wait(handle)


@pytest.mark.parametrize(
    ("run", "beginning"), [("sft", "sft-"), ("-a b/c", "a-b-c-"), ("日本", "run-"), ("x" * 99, "x" * 64)]
)
def test_names_of_experiments_are_beakers_and_one_for_a_key(run: str, beginning: str) -> None:
    name = experiment_name(run, "/runs/a", "key")
    assert name.startswith(beginning)
    assert name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    others = {experiment_name(run, place, key) for place, key in (("/runs/a", "key-2"), ("/runs/b", "key"))}
    assert len({name, *others}) == 3


def test_the_users_own_secret_comes_before_the_workspaces(emulator: RunningEmulator, tmp_path: Path) -> None:
    with beaker_client(emulator) as client:
        write_secret(client, "both", "the workspace's")
        write_secret(client, f"{USER}_both", "the user's")
        write_secret(client, "shared", "all's")
    for name, value in (("both", b"the user's\n"), ("shared", b"all's\n")):
        one = script(tmp_path, TELL, secrets={"TOKEN": name}, run_dir=str(tmp_path / "runs" / name))
        handle = submit(tmp_path, one)
        wait(handle)
        assert log(handle) == value
    one = script(tmp_path, TELL, secrets={"TOKEN": "both"}, run_dir=str(tmp_path / "runs" / "literal"))
    handle = submit(tmp_path, one, user_secrets=False)
    wait(handle)
    assert log(handle) == b"the workspace's\n"


def test_a_missing_secret_is_refused_with_the_names_that_were_looked_for(
    emulator: RunningEmulator, tmp_path: Path
) -> None:
    with pytest.raises(SubmissionRefused, match=f"no secret `{USER}_nothing` or `nothing`"):
        submit(tmp_path, script(tmp_path, TELL, secrets={"TOKEN": "nothing"}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workspace": "ai2/nowhere"}, "no workspace `ai2/nowhere`"),
        ({"image": "tester/no-such-image"}, "no image `tester/no-such-image`"),
        ({"budget": "ai2/no-money"}, "no-money"),
        ({"clusters": ["ai2/no-such-cluster"]}, "no-such-cluster"),
    ],
)
def test_what_beaker_does_not_have_is_refused_by_name(
    emulator: RunningEmulator, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(SubmissionRefused) as caught:
        submit(tmp_path, script(tmp_path, "pass"), **changes)
    assert said in str(caught.value)


def test_an_experiment_is_put_into_its_groups_which_are_made_once(emulator: RunningEmulator, tmp_path: Path) -> None:
    handles = [submit(tmp_path, script(tmp_path, "pass"), key=key, groups=["ablation"]) for key in ("1", "2", "2")]
    for handle in handles:
        wait(handle)
    with beaker_client(emulator) as client:
        workspace = client.workspace.get(WORKSPACE)
        groups = [one for one in client.group.list(workspace=workspace) if one.name == "ablation"]
        assert len(groups) == 1
        members = {one.experiment_id for one in client.group.list_task_metrics(groups[0])}
    assert members == {handle.native_id for handle in handles}


def test_a_job_that_asks_for_more_than_any_machine_has_fails_in_words(
    emulator: RunningEmulator, tmp_path: Path
) -> None:
    ended = wait(submit(tmp_path, script(tmp_path, "pass"), memory_gib=10000))
    assert ended.state is JobState.FAILED
    assert "asks for what no machine has" in ended.message


def test_a_job_that_waits_is_queued_and_can_be_stopped_there(emulator: RunningEmulator, tmp_path: Path) -> None:
    blockers = [
        submit(
            tmp_path, script(tmp_path, "import time; time.sleep(60)"), key=f"b{number}", clusters=["ai2/gpus"], gpus=8
        )
        for number in (1, 2)
    ]
    waiting = submit(tmp_path, script(tmp_path, "pass"), key="waits", clusters=["ai2/gpus"], gpus=8)
    assert status(waiting).state in (JobState.QUEUED, JobState.PENDING)
    BeakerCluster().stop(waiting)
    assert wait(waiting).state is JobState.STOPPED
    for handle in blockers:
        BeakerCluster().stop(handle)
        wait(handle)


def test_status_of_many_experiments_takes_one_listing_and_none_for_those_that_ended(
    emulator: RunningEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunewright.clusters.beaker.service import Service

    handles = [submit(tmp_path, script(tmp_path, "pass"), key=f"k{number}") for number in range(6)]
    for handle in handles:
        wait(handle)
    calls: list[str] = []
    call = Service.call

    def counted(self: Service, method: str, request: Any) -> Any:
        calls.append(method)
        return call(self, method, request)

    monkeypatch.setattr(Service, "call", counted)
    cluster = BeakerCluster()
    assert {one.state for one in cluster.status(handles).values()} == {JobState.SUCCEEDED}
    assert calls.count("ListWorkloads") == 1
    assert "GetWorkload" not in calls
    assert calls.count("ListJobs") == len(handles)  # Beaker lists jobs of one task only
    calls.clear()
    cluster.status(handles)
    assert not calls, "what has ended is asked for again"


def test_where_the_nodes_files_are_not_seen_beakers_own_lines_are_the_log(
    emulator: RunningEmulator, tmp_path: Path
) -> None:
    text = "import os; print('attempt', os.environ['TUNEWRIGHT_ATTEMPT']); raise SystemExit(1)"
    handle = submit(tmp_path, script(tmp_path, text, max_retries=1))
    wait(handle)
    Path(json.loads(handle.data)["run_dir"], "logs", "replica-0.log").unlink()
    assert log(handle) == b"attempt 0\nattempt 1\n"
    assert b"".join(BeakerCluster().logs(handle, since=3, follow=True)) == b"empt 0\nattempt 1\n"


def test_following_a_run_whose_files_are_not_seen_gives_beakers_lines_while_they_come(
    emulator: RunningEmulator, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    # A file without a name is one that this machine does not see.
    text = f"""
import os, time
os.unlink("logs/replica-0.log")
print("first", flush=True)
while not os.path.exists({str(gate)!r}):
    time.sleep(0.02)
print("last")
"""
    handle = submit(tmp_path, script(tmp_path, text))
    cluster = BeakerCluster()
    cluster.seen_within_seconds = 0.5
    seen, states = b"", []
    for piece in cluster.logs(handle, follow=True):
        seen += piece
        states.append(status(handle).state)
        gate.touch()
    assert seen == b"first\nlast\n"
    assert not states[0].is_terminal
    assert wait(handle).state is JobState.SUCCEEDED


def test_a_server_that_does_not_answer_is_told_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yml"
    lines = ("user_token: x", "agent_address: https://127.0.0.1:9", "rpc_address: 127.0.0.1:9")
    config.write_text("\n".join([*lines, "default_org: ai2", "default_workspace: ai2/testing"]))
    monkeypatch.setenv("BEAKER_CONFIG", str(config))
    handle = JobHandle(cluster="beaker", native_id="01")
    assert status(handle).state is JobState.UNKNOWN
    with pytest.raises(Unavailable, match="does not answer"):
        submit(tmp_path, script(tmp_path, "pass"))
    with pytest.raises(Unavailable, match="does not answer"):
        BeakerCluster().stop(handle)


@pytest.mark.parametrize(
    ("text", "code"),
    [(None, "beaker-config-missing"), ("default_org: ai2\n", "beaker-token-missing"), ("user_token: abc\n", None)],
)
def test_check_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, code: str | None
) -> None:
    monkeypatch.delenv("BEAKER_TOKEN", raising=False)
    monkeypatch.setenv("BEAKER_CONFIG", str(tmp_path / "config.yml"))
    if text is not None:
        (tmp_path / "config.yml").write_text(text)
    assert [finding.code for finding in BeakerCluster().check()] == ([code] if code else [])
    monkeypatch.setenv("BEAKER_TOKEN", "token")
    assert not BeakerCluster().check()


def test_the_emulator_takes_every_spec_of_the_mason_table(emulator: RunningEmulator, tmp_path: Path) -> None:
    """The organization's own clusters, image and secrets are not there: theirs are put in their place."""
    known = ("priority", "min_runtime_seconds", "preemptible", "time_limit_seconds")
    for case in (one for one in CASES if not one.refusal):
        options = {name: value for name, value in case.options.items() if name in known}
        fields = {name: value for name, value in case.job.items() if name not in ("secrets", "nodes")}
        one = job(*case.command, run_dir=str(tmp_path / "runs" / "x"), nodes=case.job.get("nodes", 1), **fields)
        handle = submit(tmp_path, one, key=case.name, **options)
        BeakerCluster().stop(handle)
        wait(handle)
