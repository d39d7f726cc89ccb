"""What a real Slurm takes from a job: its nodes, its time, its place. Each cause is named, and what may go on does."""

from __future__ import annotations

import pytest
from servers.slurm_cluster import SlurmCluster

from plugins.cluster_slurm.slurm_jobs import (
    SLEEP,
    SLEEPS_AT_FIRST,
    SlurmHome,
    eventually,
    log,
    status,
    told,
    wait,
    wait_for_log,
)
from tunewright.contracts.jobs import JobHandle
from tunewright.contracts.status import CauseKind, JobState

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("over_its_time")]

# Told to end, it says so and asks to be started again; the next time it ends well.
ASKS_FOR_MORE = """
import os, signal, sys, time
def leave(number, frame):
    print("told", signal.Signals(number).name, flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGUSR1, leave)
print("attempt", os.environ["TUNEWRIGHT_ATTEMPT"], flush=True)
time.sleep(600 if os.environ["TUNEWRIGHT_ATTEMPT"] == "0" else 0)
"""


def test_a_job_whose_node_dies_is_started_again_on_others(home: SlurmHome, slurm: SlurmCluster) -> None:
    handle = home.submit(home.job(SLEEPS_AT_FIRST, nodes=2, max_retries=1), exclude="n1")
    wait_for_log(handle, b"attempt 0", replica=1)
    lost = told(handle)["nodes"][1]
    alone = home.submit(home.job(SLEEP), nodelist=lost)
    wait_for_log(alone, b"up")
    slurm.kill_node(lost)
    try:
        ended, failed = wait(handle), wait(alone)
    finally:
        slurm.start_node(lost)
        eventually(lambda: slurm.ask("sinfo", "-h", "-n", lost, "-p", "main", "-o", "%t").strip() == "idle")
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
    assert log(handle, replica=1) == b"attempt 0\nattempt 1\n"
    assert lost not in told(handle)["nodes"]
    assert (failed.state, failed.cause) == (JobState.FAILED, CauseKind.NODE_LOST)
    assert lost in failed.message
    assert failed.shell_exit_code == 75


def test_a_preempted_job_is_warned_and_goes_on_later(home: SlurmHome) -> None:
    low = home.submit(home.job(ASKS_FOR_MORE, max_retries=1), partition="low", nodelist="n2", exclusive=True)
    wait_for_log(low, b"attempt 0")
    high = home.submit(home.job("pass"), partition="high", nodelist="n2", exclusive=True)
    wait_for_log(low, b"told SIGTERM")
    eventually(lambda: status(low).state is JobState.REQUEUED)
    assert wait(high).state is JobState.SUCCEEDED
    ended = wait(low)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
    assert log(low) == b"attempt 0\ntold SIGTERM\nattempt 1\n"


def test_a_preempted_job_without_attempts_left_says_what_ended_it(home: SlurmHome) -> None:
    low = home.submit(home.job(ASKS_FOR_MORE), partition="low", nodelist="n2", exclusive=True, requeue=False)
    wait_for_log(low, b"attempt 0")
    home.submit(home.job("pass"), partition="high", nodelist="n2", exclusive=True)
    ended = wait(low)
    assert (ended.state, ended.cause) == (JobState.FAILED, CauseKind.PREEMPTED)
    assert ended.shell_exit_code == 75


def test_a_user_may_have_it_requeued_by_a_signal_of_its_own(home: SlurmHome, slurm: SlurmCluster) -> None:
    handle = home.submit(home.job(ASKS_FOR_MORE), requeue=True)
    wait_for_log(handle, b"attempt 0")
    slurm.ask("scancel", "--signal=USR1", handle.native_id)
    ended = wait(handle)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
    assert log(handle) == b"attempt 0\ntold SIGUSR1\nattempt 1\n"


def test_a_job_requeued_by_an_administrator_counts_as_started_again(home: SlurmHome, slurm: SlurmCluster) -> None:
    handle = home.submit(home.job(SLEEPS_AT_FIRST, max_retries=1))
    wait_for_log(handle, b"attempt 0")
    slurm.ask("scontrol", "requeue", handle.native_id)
    ended = wait(handle)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)


def test_an_attempt_too_many_is_not_made(home: SlurmHome, slurm: SlurmCluster) -> None:
    handle = home.submit(home.job(SLEEP, max_retries=1))
    for said in (b"up\n", b"up\nup\n"):
        wait_for_log(handle, said)
        slurm.ask("scontrol", "requeue", handle.native_id)
    ended = wait(handle)
    assert (ended.state, ended.cause, ended.attempt) == (JobState.FAILED, CauseKind.PREEMPTED, 1)
    assert "no attempts left" in ended.message
    assert log(handle) == b"up\nup\n"


def test_a_cancelled_job_that_asks_for_more_gets_none(home: SlurmHome, slurm: SlurmCluster) -> None:
    handle = home.submit(home.job(ASKS_FOR_MORE, max_retries=1))
    wait_for_log(handle, b"attempt 0")
    slurm.ask("scancel", handle.native_id)  # by hand: no note of ours says so
    assert wait(handle).state is JobState.STOPPED
    assert log(handle) == b"attempt 0\ntold SIGTERM\n"


def test_a_job_over_its_time_is_warned_before_and_ends_as_timed_out(over_its_time: JobHandle) -> None:
    ended = wait(over_its_time, seconds=120)
    assert (ended.state, ended.cause) == (JobState.TIMED_OUT, CauseKind.TIMEOUT)
    assert log(over_its_time) == b"up\ntold SIGUSR1\n"
