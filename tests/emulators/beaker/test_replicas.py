from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from beaker import Beaker, BeakerTaskResources
from beaker import beaker_pb2 as pb2

from emulators.beaker.experiments import (
    Code,
    Status,
    ended,
    experiment,
    jobs_of,
    lines,
    running_job,
    shell_words,
    task,
    wait_for,
)
from tunewright.beaker_emulator.starting import RunningEmulator

pytestmark = pytest.mark.timeout(180)

_TOGETHER: dict[str, Any] = {
    "host_networking": True,
    "leader_selection": True,
    "propagate_failure": True,
    "propagate_preemption": True,
    "synchronized_start_timeout": "20s",
}
_GPUS = BeakerTaskResources(gpu_count=8)


def _codes(client: Beaker, workload: pb2.Workload, position: int) -> list[pb2.CancelationCode]:
    return [job.status.canceled_code for job in jobs_of(client, workload, position)]


def test_replicas_are_tasks_of_their_own_on_different_nodes_and_know_their_leader(client: Beaker) -> None:
    names = ["BEAKER_REPLICA_RANK", "BEAKER_REPLICA_COUNT", "BEAKER_NODE_HOSTNAME", "BEAKER_LEADER_REPLICA_HOSTNAME"]
    spec = experiment(task(shell_words(names), replicas=3, **_TOGETHER))
    workload = ended(client, client.experiment.create(spec=spec))
    assert workload.status == Status.STATUS_SUCCEEDED
    groups = [one.system_details.replica_group_details for one in workload.experiment.tasks]
    assert [(group.rank, group.size, group.is_leader_replica) for group in groups] == [
        (0, 3, True),
        (1, 3, False),
        (2, 3, False),
    ]
    told = [
        dict(line.decode().split("=") for line in lines(client, jobs_of(client, workload, position)[0]))
        for position in range(3)
    ]
    assert [one["BEAKER_REPLICA_RANK"] for one in told] == ["0", "1", "2"]
    assert {one["BEAKER_REPLICA_COUNT"] for one in told} == {"3"}
    assert len({one["BEAKER_NODE_HOSTNAME"] for one in told}) == 3
    assert {one["BEAKER_LEADER_REPLICA_HOSTNAME"] for one in told} == {told[0]["BEAKER_NODE_HOSTNAME"]}


def test_replicas_reach_their_leader_by_its_hostname(client: Beaker, tmp_path: Path) -> None:
    program = tmp_path / "meet.py"
    program.write_text(
        "import os, socket, time\n"
        "at = (os.environ['BEAKER_LEADER_REPLICA_HOSTNAME'], 29517)\n"
        "if os.environ['BEAKER_REPLICA_RANK'] == '0':\n"
        "    connection, _ = socket.create_server(at).accept()\n"
        "    print(connection.recv(100).decode())\n"
        "else:\n"
        "    for attempt in range(100):\n"
        "        try:\n"
        "            socket.create_connection(at).sendall(b'hello leader')\n"
        "            break\n"
        "        except OSError:\n"
        "            time.sleep(0.1)\n"
    )
    spec = experiment(task(f"python3 {program}", replicas=2, **_TOGETHER))
    workload = ended(client, client.experiment.create(spec=spec))
    assert lines(client, jobs_of(client, workload, 0)[0]) == [b"hello leader"]


def test_a_replica_that_fails_takes_its_siblings_with_it(client: Beaker) -> None:
    script = "[ $BEAKER_REPLICA_RANK = 1 ] && sleep 0.5 && exit 7; sleep 300"
    workload = ended(client, client.experiment.create(spec=experiment(task(script, replicas=3, **_TOGETHER))))
    assert workload.status == Status.STATUS_FAILED
    assert jobs_of(client, workload, 1)[0].status.exit_code == 7
    for position in (0, 2):
        assert _codes(client, workload, position) == [Code.CANCELATION_CODE_SIBLING_TASK_FAILED]


def test_without_propagation_siblings_go_on(client: Beaker) -> None:
    script = "[ $BEAKER_REPLICA_RANK = 1 ] && exit 7; sleep 0.7"
    workload = ended(client, client.experiment.create(spec=experiment(task(script, replicas=2))))
    assert Status.Name(jobs_of(client, workload, 0)[0].status.status) == "STATUS_SUCCEEDED"


def test_a_retry_starts_every_replica_again(client: Beaker, tmp_path: Path) -> None:
    flag = tmp_path / "again"
    fails = f"[ $BEAKER_REPLICA_RANK = 1 ] && sleep 0.5 && touch {flag} && exit 7"
    script = f"test -e {flag} && exit 0; {fails}; sleep 300"
    spec = experiment(task(script, replicas=2, **_TOGETHER), retries=1)
    workload = ended(client, client.experiment.create(spec=spec))
    assert workload.status == Status.STATUS_SUCCEEDED
    assert _codes(client, workload, 0)[0] == Code.CANCELATION_CODE_SIBLING_TASK_RETRY
    assert [len(jobs_of(client, workload, position)) for position in (0, 1)] == [2, 2]


def test_a_retry_starts_replicas_again_that_had_succeeded(client: Beaker, tmp_path: Path) -> None:
    flag = tmp_path / "again"
    script = f"[ $BEAKER_REPLICA_RANK = 1 ] && exit 0; test -e {flag} && exit 0; sleep 0.7; touch {flag}; exit 7"
    spec = experiment(task(script, replicas=2, **_TOGETHER), retries=1)
    workload = ended(client, client.experiment.create(spec=spec))
    assert workload.status == Status.STATUS_SUCCEEDED
    assert [len(jobs_of(client, workload, position)) for position in (0, 1)] == [2, 2]


def test_replicas_that_cannot_start_together_in_time_fail_with_words(client: Beaker) -> None:
    blocker = client.experiment.create(
        spec=experiment(task("sleep 300", cluster="ai2/gpus", resources=_GPUS, priority="high"))
    )
    running_job(client, blocker)
    together = {**_TOGETHER, "synchronized_start_timeout": "700ms", "propagate_failure": True}
    spec = experiment(task("true", cluster="ai2/gpus", resources=_GPUS, replicas=2, **together))
    workload = ended(client, client.experiment.create(spec=spec))
    statuses = [jobs_of(client, workload, position)[0].status for position in (0, 1)]
    assert any("synchronized start timed out" in status.message for status in statuses)
    assert not any(status.HasField("started") for status in statuses)
    client.workload.cancel(blocker)
    ended(client, blocker)


def test_jobs_wait_in_the_queue_until_slots_are_free_and_the_higher_priority_goes_first(
    client: Beaker, tmp_path: Path
) -> None:
    log, gate = tmp_path / "order", tmp_path / "gate"
    held = f"until test -e {gate}; do sleep 0.05; done"
    fields: dict[str, Any] = {"cluster": "ai2/gpus", "resources": _GPUS}
    holders = [client.experiment.create(spec=experiment(task(held, priority="urgent", **fields))) for _ in (0, 1)]
    for holder in holders:
        running_job(client, holder)
    waiting = [
        client.experiment.create(spec=experiment(task(f"echo {name} >> {log}; sleep 0.3", priority=name, **fields)))
        for name in ("low", "normal", "high")
    ]
    job = jobs_of(client, waiting[0])[0]
    assert Status.Name(job.status.status) == "STATUS_QUEUED"
    gate.touch()
    for workload in waiting:
        ended(client, workload)
    order = log.read_text().split()
    assert set(order[:2]) == {"high", "normal"} and order[2] == "low"


def test_a_higher_priority_preempts_what_may_be_preempted_and_that_resumes(client: Beaker) -> None:
    fields: dict[str, Any] = {"cluster": "ai2/gpus", "resources": _GPUS, "replicas": 2, **_TOGETHER}
    low = client.experiment.create(
        spec=experiment(task("sleep 300", priority="low", min_runtime="0s", auto_resume=True, **fields))
    )
    running_job(client, low, 1)
    high = client.experiment.create(
        spec=experiment(task("sleep 0.5", cluster="ai2/gpus", resources=_GPUS, priority="high"))
    )
    assert ended(client, high).status == Status.STATUS_SUCCEEDED
    for position in (0, 1):
        running_job(client, low, position, number=1)
    first_codes = {_codes(client, low, position)[0] for position in (0, 1)}
    assert first_codes == {
        Code.CANCELATION_CODE_SYSTEM_PREEMPTION,
        Code.CANCELATION_CODE_SIBLING_TASK_PREEMPTION,
    }
    client.workload.cancel(low)
    assert ended(client, low).status == Status.STATUS_CANCELED


def test_nobody_preempts_a_job_before_its_minimum_runtime_or_one_that_gave_none(client: Beaker) -> None:
    fields: dict[str, Any] = {"cluster": "ai2/gpus", "resources": _GPUS, "priority": "low"}
    protected = client.experiment.create(spec=experiment(task("sleep 300", min_runtime="1h", **fields)))
    unnamed = client.experiment.create(spec=experiment(task("sleep 300", **fields)))
    for workload in (protected, unnamed):
        running_job(client, workload)
    high = client.experiment.create(
        spec=experiment(task("true", cluster="ai2/gpus", resources=_GPUS, priority="immediate"))
    )
    time.sleep(0.5)
    assert Status.Name(jobs_of(client, high)[0].status.status) == "STATUS_QUEUED"
    client.workload.cancel(protected, unnamed)
    assert ended(client, high).status == Status.STATUS_SUCCEEDED


def test_a_preempted_job_that_does_not_resume_is_over(client: Beaker, emulator: RunningEmulator) -> None:
    workload = client.experiment.create(spec=experiment(task("sleep 300", min_runtime="0s")))
    emulator.preempt(running_job(client, workload).id)
    assert ended(client, workload).status == Status.STATUS_CANCELED
    assert _codes(client, workload, 0) == [Code.CANCELATION_CODE_SYSTEM_PREEMPTION]


def test_a_lost_node_ends_its_jobs_at_once_and_they_resume_elsewhere(client: Beaker, emulator: RunningEmulator) -> None:
    script = "trap 'echo gently' TERM; sleep 300"
    workload = client.experiment.create(spec=experiment(task(script, min_runtime="1h", auto_resume=True)))
    job = running_job(client, workload)
    node = client.node.get(job.assignment_details.node_id)
    assert emulator.lose_node(node.hostname) == [job.id]
    second = running_job(client, workload, number=1)
    assert second.assignment_details.node_id != node.id
    first = client.job.get(job.id)
    assert first.status.canceled_code == Code.CANCELATION_CODE_NODE_UNAVAILABLE
    assert first.status.exit_code == 137
    client.workload.cancel(workload)
    emulator.return_node(node.id)
    assert not client.node.get(node.id).HasField("cordon_details")


def test_what_no_node_can_hold_is_canceled_with_words(client: Beaker) -> None:
    spec = experiment(task("true", cluster="ai2/cpus", resources=BeakerTaskResources(gpu_count=1)))
    workload = ended(client, client.experiment.create(spec=spec))
    status = jobs_of(client, workload)[0].status
    assert status.canceled_code == Code.CANCELATION_CODE_IMPOSSIBLE_TO_SCHEDULE
    assert "no node" in status.canceled_for


def test_a_hostname_is_where_the_job_runs(client: Beaker) -> None:
    spec = task("true").with_constraint(hostname=["127.0.2.3"])
    job = jobs_of(client, ended(client, client.experiment.create(spec=experiment(spec))))[0]
    assert client.node.get(job.assignment_details.node_id).hostname == "127.0.2.3"


def test_occupancy_counts_the_slots_that_jobs_hold(client: Beaker) -> None:
    workload = client.experiment.create(
        spec=experiment(task("sleep 300", cluster="ai2/gpus", resources=BeakerTaskResources(gpu_count=5)))
    )
    running_job(client, workload)
    counts = client.cluster.get("ai2/gpus", include_cluster_occupancy=True).cluster_occupancy.slot_counts
    assert (counts.total, counts.occupied, counts.available) == (16, 5, 11)
    client.workload.cancel(workload)
    ended(client, workload)
    wait_for(
        lambda: (
            client.cluster.get("ai2/gpus", include_cluster_occupancy=True).cluster_occupancy.slot_counts.available == 16
        ),
        "the slots are free",
    )
