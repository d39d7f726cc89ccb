"""Several nodes, each a container: they find each other, and live and die together."""

from __future__ import annotations

from pathlib import Path

from plugins.cluster_docker.docker_jobs import (
    client,
    containers_of,
    document,
    eventually,
    kill_container,
    left_in_docker,
    log,
    make_job,
    submit,
    wait,
    wait_for_line,
)
from tunewright.contracts.status import CauseKind, JobState

# Node 0 waits for a word of each other node; each then waits for its answer.
MEET = """
import os, socket, time
rank, port = int(os.environ["TUNEWRIGHT_NODE_RANK"]), int(os.environ["TUNEWRIGHT_MASTER_PORT"])
if rank == 0:
    listener = socket.create_server(("", port))
    for _ in range(2):
        connection, _ = listener.accept()
        print(connection.recv(99).decode(), flush=True)
        connection.sendall(b"welcome")
else:
    for _ in range(100):
        try:
            connection = socket.create_connection((os.environ["TUNEWRIGHT_MASTER_ADDRESS"], port))
            break
        except OSError:
            time.sleep(0.1)
    connection.sendall(f"node {rank} at {socket.gethostname()}".encode())
    print(connection.recv(99).decode())
"""
SLEEPS_AT_FIRST = """
import os, time
print("attempt", os.environ["TUNEWRIGHT_ATTEMPT"], flush=True)
time.sleep(600 if os.environ["TUNEWRIGHT_ATTEMPT"] == "0" else 0)
"""


def test_nodes_meet_by_name_on_a_network_of_their_own_that_goes_with_them(home: Path) -> None:
    handle = submit(make_job(home, MEET, nodes=3))
    with client() as docker:
        assert [network.name for network in docker.networks.list(names=[handle.native_id])] == [handle.native_id]
    assert wait(handle).state is JobState.SUCCEEDED
    assert sorted(log(handle, 0).splitlines()) == [b"node 1 at node-1", b"node 2 at node-2"]
    assert (log(handle, 1), log(handle, 2)) == (b"welcome\n", b"welcome\n")
    assert not left_in_docker(home)


def test_one_node_that_fails_ends_the_others_and_is_named(home: Path) -> None:
    script = """
import os, sys, time
print("up", flush=True)
time.sleep(0.3)
sys.exit(7) if os.environ["TUNEWRIGHT_NODE_RANK"] == "1" else time.sleep(600)
"""
    ended = wait(handle := submit(make_job(home, script, nodes=2), stop_grace_seconds=0.2))
    assert (ended.state, ended.cause, ended.exit_code) == (JobState.FAILED, CauseKind.EXIT, 7)
    assert "node 1" in ended.message
    assert not containers_of(handle)


def test_a_retry_starts_every_node_again(home: Path) -> None:
    handle = submit(make_job(home, SLEEPS_AT_FIRST, nodes=2, max_retries=1), stop_grace_seconds=0.2)
    for replica in (0, 1):
        wait_for_line(handle, replica)
    kill_container(handle, 1)
    ended = wait(handle)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
    assert [log(handle, replica) for replica in (0, 1)] == [b"attempt 0\nattempt 1\n"] * 2
    requeued = [entry["message"] for entry in document(handle)["history"] if entry["state"] == "REQUEUED"]
    assert requeued == ["node 1 was killed by SIGKILL; retry 1 of 1 follows"]


def test_a_node_that_ends_well_waits_for_the_others(home: Path) -> None:
    script = """
import os, time
time.sleep(1 if os.environ["TUNEWRIGHT_NODE_RANK"] == "1" else 0)
print("done")
"""
    handle = submit(make_job(home, script, nodes=2))
    eventually(lambda: log(handle, 0) == b"done\n")
    assert wait(handle).state is JobState.SUCCEEDED
    assert log(handle, 1) == b"done\n"
