"""What happens to jobs on Beaker: preemption, lost machines, retries, several nodes, on the emulator."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from servers.beaker_emulator import beaker_client

from plugins.cluster_beaker.beaker_jobs import log, script, status, submit, wait, wait_for_log
from tunewright.beaker_emulator.starting import RunningEmulator
from tunewright.clusters.beaker.backend import BeakerCluster
from tunewright.contracts.jobs import JobHandle, Resources
from tunewright.contracts.status import CauseKind, JobState

pytestmark = pytest.mark.timeout(120)

# Each step is kept in the run's directory, as a checkpoint would be: the next attempt goes on after the last one.
STEPS = """
import os, pathlib, signal, sys, time
def leave(*_):
    print("asked to leave", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
steps = pathlib.Path("steps")
done = len(steps.read_text()) if steps.exists() else 0
print("attempt", os.environ["TUNEWRIGHT_ATTEMPT"], "from step", done, flush=True)
for step in range(done, 3):
    with steps.open("a") as file:
        file.write("s")
    if step == 1 and os.environ["TUNEWRIGHT_ATTEMPT"] == "0":
        print("waits", flush=True)
        time.sleep(60)
print("done", flush=True)
"""
NODE_1_FAILS_ONCE = """
import os, sys, time
rank, attempt = os.environ["TUNEWRIGHT_NODE_RANK"], os.environ["TUNEWRIGHT_ATTEMPT"]
print("node", rank, "attempt", attempt, flush=True)
time.sleep(0.5)
if attempt == "0":
    sys.exit(7) if rank == "1" else time.sleep(60)
"""


def job_ids(running: RunningEmulator, handle: JobHandle) -> list[str]:
    """Beaker's ids of the newest jobs, by rank."""
    with beaker_client(running) as client:
        workload = client.workload.get(handle.native_id)
        jobs = [client.workload.get_latest_job(workload, task=task) for task in workload.experiment.tasks]
    return [job.id for job in jobs if job is not None]


def test_a_preempted_job_goes_on_where_it_was(emulator: RunningEmulator, tmp_path: Path) -> None:
    handle = submit(tmp_path, script(tmp_path, STEPS), min_runtime_seconds=0)
    wait_for_log(handle, b"waits")
    emulator.preempt(job_ids(emulator, handle)[0])
    ended = wait(handle)
    assert ended.state is JobState.SUCCEEDED
    assert ended.attempt == 1
    assert log(handle).decode().splitlines() == [
        "attempt 0 from step 0", "waits", "asked to leave", "attempt 1 from step 2", "done",
    ]  # fmt: skip


def test_a_preempted_job_that_shall_not_resume_ends_with_its_cause(emulator: RunningEmulator, tmp_path: Path) -> None:
    handle = submit(tmp_path, script(tmp_path, STEPS), min_runtime_seconds=0, auto_resume=False)
    wait_for_log(handle, b"waits")
    emulator.preempt(job_ids(emulator, handle)[0])
    ended = wait(handle)
    assert (ended.state, ended.cause) == (JobState.FAILED, CauseKind.PREEMPTED)
    assert ended.shell_exit_code == 75


def test_a_lost_machine_is_the_cause_and_a_retry_runs_elsewhere(emulator: RunningEmulator, tmp_path: Path) -> None:
    handles = [
        submit(tmp_path, script(tmp_path, STEPS, run_dir=str(tmp_path / "runs" / name), max_retries=retries))
        for name, retries in (("once", 0), ("again", 1))
    ]
    for handle in handles:
        wait_for_log(handle, b"waits")
    with beaker_client(emulator) as client:
        nodes = {client.job.get(job_ids(emulator, handle)[0]).assignment_details.node_id for handle in handles}
    try:
        for node in nodes:
            emulator.lose_node(node)
        once, again = (wait(handle) for handle in handles)
    finally:
        for node in nodes:
            emulator.return_node(node)
    assert (once.state, once.cause, once.shell_exit_code) == (JobState.FAILED, CauseKind.NODE_LOST, 75)
    assert (again.state, again.attempt) == (JobState.SUCCEEDED, 1)


def test_a_node_that_fails_ends_the_others_and_all_start_again(emulator: RunningEmulator, tmp_path: Path) -> None:
    one = script(tmp_path, NODE_1_FAILS_ONCE, resources=Resources(nodes=2), max_retries=1)
    handle = submit(tmp_path, one)
    ended = wait(handle)
    assert ended.state is JobState.SUCCEEDED, ended
    assert ended.attempt == 1
    assert log(handle, 0) == b"node 0 attempt 0\nnode 0 attempt 1\n"
    assert log(handle, 1) == b"node 1 attempt 0\nnode 1 attempt 1\n"


def test_the_node_that_failed_is_named(emulator: RunningEmulator, tmp_path: Path) -> None:
    handle = submit(tmp_path, script(tmp_path, NODE_1_FAILS_ONCE, resources=Resources(nodes=3)))
    ended = wait(handle)
    assert (ended.state, ended.exit_code, ended.message) == (JobState.FAILED, 7, "node 1 ended with exit code 7")


def test_a_preempted_node_takes_the_others_with_it(emulator: RunningEmulator, tmp_path: Path) -> None:
    text = STEPS.replace('Path("steps")', 'Path("steps-" + os.environ["TUNEWRIGHT_NODE_RANK"])')
    handle = submit(tmp_path, script(tmp_path, text, resources=Resources(nodes=2)), min_runtime_seconds=0)
    for replica in (0, 1):
        while b"waits" not in log(handle, replica):
            assert not status(handle).state.is_terminal
    emulator.preempt(job_ids(emulator, handle)[1])
    ended = wait(handle)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1), ended
    assert all(b"attempt 1 from step 2" in log(handle, replica) for replica in (0, 1))


def test_running_out_of_memory_is_the_cause_on_a_node_of_several(emulator: RunningEmulator, tmp_path: Path) -> None:
    text = "import os, time\nif os.environ['TUNEWRIGHT_NODE_RANK'] == '1': x = b'x' * (1 << 29)\ntime.sleep(30)"
    handle = submit(tmp_path, script(tmp_path, text, resources=Resources(nodes=2)), memory_gib=0.125)
    ended = wait(handle)
    assert (ended.state, ended.cause) == (JobState.FAILED, CauseKind.OUT_OF_MEMORY)
    assert ended.message == "node 1 ran out of memory"


def test_the_job_knows_where_on_beaker_it_is(emulator: RunningEmulator, tmp_path: Path) -> None:
    text = "import json, os; print(json.dumps(dict(os.environ)))"
    handle = submit(tmp_path, script(tmp_path, text))
    wait(handle)
    environment = json.loads(log(handle))
    assert environment["BEAKER_WORKLOAD_ID"] == handle.native_id
    assert BeakerCluster().url(handle) == f"{emulator.agent_address}/ex/{handle.native_id}"
