"""Cluster `local` beyond what every cluster must do: its supervisor's death, half-made submissions, secrets, limits."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from plugins.cluster_local.local_jobs import (
    GREEDY,
    SLEEP,
    WITH_DAEMON,
    all_command_lines,
    document,
    environ_of,
    eventually,
    is_alive,
    log,
    make_job,
    make_plan,
    submit,
    wait,
    wait_for_line,
)
from tunewright.clusters.local.backend import LocalCluster
from tunewright.clusters.local.plan import PLAN_FILE
from tunewright.clusters.local.state_directory import StateDirectory
from tunewright.clusters.local.supervisor import BASE_PATH, group_parents, identity_of, this_place
from tunewright.contracts.errors import SubmissionRefused
from tunewright.contracts.jobs import JobHandle
from tunewright.contracts.status import CauseKind, JobState

HAS_GROUPS = any(os.access(parent, os.W_OK) for parent in group_parents())
needs_groups = pytest.mark.skipif(not HAS_GROUPS, reason="no memory control group can be made on this machine")


class WithoutGroups(LocalCluster):
    """As on a machine where no control group can be made."""

    @staticmethod
    def supervisor_source() -> str:
        text = LocalCluster.supervisor_source()
        line = 'CGROUP_ROOT = "/sys/fs/cgroup"'
        assert text.count(line) == 1
        return text.replace(line, 'CGROUP_ROOT = "/nonexistent"')


# What the job gets.


def test_the_environment_is_the_fixed_base_and_what_was_planned(home: Path) -> None:
    job = make_job(home, "import json, os; print(json.dumps(dict(os.environ)))", variables={"A": "1", "LANG": "C"})
    handle = submit(job)
    wait(handle)
    user = pwd.getpwuid(os.getuid())
    base = {
        "PATH": BASE_PATH,
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LANG": "C",
        "A": "1",
        "TUNEWRIGHT_ATTEMPT": "0",
    }
    seen = json.loads(log(handle))
    assert {name: value for name, value in seen.items() if name != "LC_CTYPE"} == base


def test_the_job_starts_in_its_run_directory_in_a_session_of_its_own(home: Path) -> None:
    job = make_job(home, "import os; print(os.getcwd()); print(os.getsid(0) == os.getpid())")
    handle = submit(job)
    wait(handle)
    assert log(handle).decode().splitlines() == [job.run_dir, "True"]


def test_signals_the_client_ignores_are_not_ignored_by_the_job(home: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        handle = submit(make_job(home, "import os; os.kill(os.getpid(), 2); import time; time.sleep(9)"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert wait(handle).shell_exit_code == 128 + signal.SIGINT


# The supervisor dies.


@pytest.mark.parametrize("cluster", [LocalCluster(), WithoutGroups()], ids=["groups", "no groups"])
def test_a_killed_supervisor_is_told_and_leaves_nothing_of_the_job(home: Path, cluster: LocalCluster) -> None:
    handle = submit(make_job(home, WITH_DAEMON), cluster)
    daemon = int(wait_for_line(handle))
    if isinstance(cluster, WithoutGroups):
        eventually(lambda: [daemon] == [pid for pid, _ in document(handle)["apart"]])
    main = document(handle)["job"][0]
    os.kill(document(handle)["supervisor"][0], signal.SIGKILL)
    eventually(lambda: not is_alive(main))
    status = cluster.status([handle])[handle]
    assert (status.state, status.cause) == (JobState.FAILED, CauseKind.NODE_LOST)
    assert not is_alive(daemon)
    assert b"".join(cluster.logs(handle, follow=True)) == f"{daemon}\n".encode()


def test_stopping_a_job_whose_supervisor_is_dead_is_no_error(home: Path) -> None:
    handle = submit(make_job(home, SLEEP))
    wait_for_line(handle)
    os.kill(document(handle)["supervisor"][0], signal.SIGKILL)
    LocalCluster().stop(handle)
    assert wait(handle).cause is CauseKind.NODE_LOST


def ended_job_that_says_it_runs(home: Path, **forged: Any) -> JobHandle:
    """A job whose state was written by a supervisor that is gone."""
    handle = submit(make_job(home, "pass"))
    eventually(lambda: not StateDirectory(Path(handle.data)).is_supervised())
    told = {**document(handle), "state": "RUNNING", "cause": None, "group": None, **forged}
    Path(handle.data, "state.json").write_text(json.dumps(told))
    return handle


def test_a_process_that_took_over_a_pid_is_never_signalled(home: Path) -> None:
    stranger = os.fork()
    if stranger == 0:
        time.sleep(60)
        os._exit(0)
    earlier = [stranger, 1]
    handle = ended_job_that_says_it_runs(home, supervisor=earlier, job=earlier, apart=[earlier])
    try:
        assert LocalCluster().status([handle])[handle].cause is CauseKind.NODE_LOST
        LocalCluster().stop(handle)
        assert is_alive(stranger)
    finally:
        os.kill(stranger, signal.SIGKILL)
        os.waitpid(stranger, 0)


def test_processes_of_an_earlier_boot_are_not_looked_for(home: Path) -> None:
    own = identity_of(os.getpid())
    handle = ended_job_that_says_it_runs(home, place={**this_place(), "boot": "another"}, job=own, apart=[own])
    assert LocalCluster().status([handle])[handle].cause is CauseKind.NODE_LOST  # and we are alive to say so


def test_pids_of_another_container_mean_nothing_here(home: Path) -> None:
    own = identity_of(os.getpid())
    place = {**this_place(), "host": "another", "pids": "pid:[1]"}
    handle = ended_job_that_says_it_runs(home, place=place, job=own, apart=[own])
    assert LocalCluster().status([handle])[handle].cause is CauseKind.NODE_LOST  # and we are alive to say so


def test_a_job_of_another_machine_is_not_declared_lost(home: Path) -> None:
    place = {"host": "another", "boot": "another", "pids": "pid:[1]"}
    handle = ended_job_that_says_it_runs(home, place=place)
    assert LocalCluster().status([handle])[handle].state is JobState.RUNNING
    LocalCluster().stop(handle)
    assert Path(handle.data, "stop").exists()  # which that machine's supervisor looks for
    Path(handle.data, "state.json").write_text(json.dumps({**document(handle), "state": "STOPPED"}))


def test_a_supervisor_that_is_asked_to_end_ends_its_job(home: Path) -> None:
    handle = submit(make_job(home, SLEEP, max_retries=3))
    wait_for_line(handle)
    os.kill(int(handle.native_id), signal.SIGTERM)
    status = wait(handle)
    assert (status.state, status.attempt) == (JobState.STOPPED, 0)
    assert "SIGTERM" in status.message


# Submissions that were cut short.


def test_a_half_made_submission_is_not_found_and_made_by_the_next(home: Path) -> None:
    job = make_job(home, "print('ran')")
    directory = StateDirectory.of(Path(job.run_dir), job.run)
    directory.path.mkdir(parents=True)
    directory.write("process.json", '{"half": ')
    (directory.path / "lock").touch()
    handle = JobHandle(cluster="local", native_id="?", data=str(directory.path))
    assert LocalCluster().status([handle])[handle].state is JobState.NOT_FOUND
    assert list(LocalCluster().logs(handle)) == []
    assert submit(job).data == handle.data
    assert wait(handle).state is JobState.SUCCEEDED
    assert log(handle) == b"ran\n"


def test_a_supervisor_whose_submitter_died_before_the_secrets_does_nothing(home: Path) -> None:
    class DiesInTheMiddle(LocalCluster):
        @staticmethod
        def supervisor_source() -> str:
            return LocalCluster.supervisor_source().replace("sys.stdin.buffer.read()", "sys.stdin.buffer.read()[:-1]")

    job = make_job(home, "print('ran')")
    with pytest.raises(SubmissionRefused, match="did not start"):
        submit(job, DiesInTheMiddle())
    assert not Path(job.run_dir, "logs").exists()
    handle = submit(job)
    assert wait(handle).state is JobState.SUCCEEDED


def test_a_supervisor_that_cannot_start_is_refused_with_its_own_words(home: Path) -> None:
    class Broken(LocalCluster):
        @staticmethod
        def supervisor_source() -> str:
            return "raise RuntimeError('no such luck')"

    with pytest.raises(SubmissionRefused, match="no such luck"):
        submit(make_job(home, "pass"), Broken())


def test_a_run_directory_that_cannot_be_written_is_refused_in_words(home: Path) -> None:
    job = make_job(home, "pass")
    Path(job.run_dir, "local").write_text("a file in the way")
    with pytest.raises(SubmissionRefused, match="cannot write to"):
        submit(job)


def test_a_key_that_is_no_file_name_stays_in_the_run_directory(home: Path) -> None:
    job = make_job(home, "pass")
    for key in ("../../outside", "a/b", "x" * 400, ".", ""):
        handle = LocalCluster().submit(make_plan(job), key)
        wait(handle)
        assert Path(handle.data).parent == Path(job.run_dir, "local")
    assert sorted(path.name for path in home.iterdir()) == ["runs"]


# Secrets.


def test_a_secret_is_in_no_file_and_no_command_line_and_survives_a_retry(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = "hidden-4f1c"
    monkeypatch.setenv("MY_SECRET", value)
    script = """
import os, sys, time
attempt = int(os.environ["TUNEWRIGHT_ATTEMPT"])
print(attempt, os.environ["TOKEN"][::-1], flush=True)
time.sleep(0 if attempt == 0 else 600)
sys.exit(1)
"""
    handle = submit(make_job(home, script, secrets={"TOKEN": "MY_SECRET"}, max_retries=1))
    eventually(lambda: log(handle).count(b"\n") == 2)
    assert log(handle).decode().splitlines() == [f"{attempt} {value[::-1]}" for attempt in (0, 1)]
    assert value.encode() not in all_command_lines()
    assert value.encode() not in environ_of(int(handle.native_id))
    LocalCluster().stop(handle)
    wait(handle)
    assert not [path for path in home.rglob("*") if path.is_file() and value.encode() in path.read_bytes()]


# Limits and retries.


@needs_groups
def test_the_kernel_bounds_memory_and_the_group_is_gone_afterwards(home: Path) -> None:
    handle = submit(make_job(home, GREEDY), memory_gib=0.125)
    status = wait(handle)
    assert (status.cause, status.signal) == (CauseKind.OUT_OF_MEMORY, signal.SIGKILL)
    assert "memory_gib = 0.125" in status.message
    group = document(handle)["group"]
    assert group
    eventually(lambda: not Path(group).exists())


@needs_groups
@pytest.mark.parametrize(("code", "cause"), [(5, CauseKind.OUT_OF_MEMORY), (0, CauseKind.EXIT)])
def test_a_child_killed_for_memory_counts_where_the_job_fails_of_it(home: Path, code: int, cause: CauseKind) -> None:
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]]); sys.exit({code})"
    status = wait(submit(make_job(home, script, GREEDY), memory_gib=0.125))
    assert (status.exit_code, status.cause) == (code, cause)


def test_without_groups_memory_is_watched(home: Path) -> None:
    handle = submit(make_job(home, GREEDY), WithoutGroups(), memory_gib=0.125)
    status = wait(handle)
    assert (status.state, status.cause) == (JobState.FAILED, CauseKind.OUT_OF_MEMORY)
    assert "no control group" in status.message
    assert document(handle)["group"] is None


def test_without_groups_memory_that_processes_share_counts_once(home: Path) -> None:
    script = """
import os, time
x = bytearray(b"x") * (60 << 20)
for _ in range(3):
    if os.fork() == 0:
        time.sleep(1)
        os._exit(0)
for _ in range(3):
    os.wait()
"""
    assert wait(submit(make_job(home, script), WithoutGroups(), memory_gib=0.15)).state is JobState.SUCCEEDED


def test_a_time_limit_ends_the_tree_and_counts_over_retries(home: Path) -> None:
    script = "import os, time; time.sleep(0.5 if int(os.environ['TUNEWRIGHT_ATTEMPT']) else 0); raise SystemExit(1)"
    status = wait(submit(make_job(home, script, max_retries=100), time_limit_seconds=3))
    assert (status.state, status.cause) == (JobState.TIMED_OUT, CauseKind.TIMEOUT)
    assert status.attempt > 0


@pytest.mark.parametrize("code", [64, 65, 66, 77, 78])
def test_an_exit_code_that_cannot_get_better_is_not_retried(home: Path, code: int) -> None:
    handle = submit(make_job(home, f"print('ran'); raise SystemExit({code})", max_retries=3))
    status = wait(handle)
    assert (status.exit_code, status.attempt) == (code, 0)
    assert log(handle) == b"ran\n"


SAVES_AND_ENDS_WITH_75 = """
import os, signal, time
if os.environ["TUNEWRIGHT_ATTEMPT"] == "1":
    raise SystemExit(0)
def end(number, frame):
    time.sleep(0.3)
    print("saved", flush=True)
    raise SystemExit(75)
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(60)
"""


def test_a_job_that_saved_and_asks_to_be_requeued_is_started_again_but_not_where_a_user_stopped_it(home: Path) -> None:
    requeued = submit(make_job(home, SAVES_AND_ENDS_WITH_75, max_retries=1))
    stopped = submit(make_job(home, SAVES_AND_ENDS_WITH_75, max_retries=1))
    for handle in (requeued, stopped):
        wait_for_line(handle)
    os.kill(document(requeued)["job"][0], signal.SIGTERM)  # as a machine does that needs its place
    LocalCluster().stop(stopped)
    assert wait(requeued).state is JobState.SUCCEEDED
    assert log(requeued) == b"up\nsaved\n"
    assert [one["exit_code"] for one in document(requeued)["history"] if one["state"] == "REQUEUED"] == [75]
    status = wait(stopped)
    assert (status.state, status.exit_code, status.attempt) == (JobState.STOPPED, 75, 0)
    assert log(stopped) == b"up\nsaved\n"


def test_every_change_of_state_is_kept_with_its_time(home: Path) -> None:
    handle = submit(make_job(home, "raise SystemExit(3)", max_retries=1))
    wait(handle)
    history = document(handle)["history"]
    assert [(entry["state"], entry["attempt"]) for entry in history] == [
        ("STARTING", 0), ("RUNNING", 0), ("REQUEUED", 0), ("RUNNING", 1), ("FAILED", 1),
    ]  # fmt: skip
    times = [entry["time"] for entry in history]
    assert times == sorted(times)
    assert history[2]["exit_code"] == 3


def test_the_last_word_is_written_though_the_disk_was_full(home: Path) -> None:
    script = "import os, time; print('up', flush=True)\nwhile not os.path.exists('let-go'): time.sleep(0.02)"
    job = make_job(home, script)
    handle = submit(job)
    wait_for_line(handle)
    eventually(lambda: document(handle)["state"] == "RUNNING")
    blocker = Path(handle.data, ".state.json.tmp")
    blocker.mkdir()  # no file can be written under this name now
    (Path(job.run_dir) / "let-go").touch()
    eventually(lambda: not is_alive(document(handle)["job"][0]))
    time.sleep(0.5)
    assert LocalCluster().status([handle])[handle].state is JobState.RUNNING
    shutil.rmtree(blocker)
    assert wait(handle).state is JobState.SUCCEEDED


# The machine.


def test_the_supervisor_runs_on_the_machines_own_python_with_nothing_of_the_clients(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKED", "yes")
    handle = submit(make_job(home, SLEEP))
    pid = int(handle.native_id)
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    assert Path(os.fsdecode(command[0])) == Path(os.path.realpath(sys._base_executable))  # type: ignore[attr-defined]
    assert environ_of(pid) == b""
    assert os.getsid(pid) != os.getsid(0)
    assert Path(handle.data, "supervisor.py").read_text() == LocalCluster.supervisor_source()


def test_the_plan_in_the_state_directory_is_the_plan_that_was_sent(home: Path) -> None:
    job = make_job(home, "pass")
    handle = submit(job)
    wait(handle)
    assert Path(handle.data, PLAN_FILE).read_text() == make_plan(job).text_of(PLAN_FILE)


@needs_groups
def test_a_machine_with_control_groups_lacks_nothing() -> None:
    assert list(LocalCluster().check()) == []


def test_a_machine_without_control_groups_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewright.clusters.local.supervisor.CGROUP_ROOT", "/nonexistent")
    assert [(finding.code, finding.severity) for finding in LocalCluster().check()] == [
        ("local-no-control-group", "info")
    ]


def test_another_system_than_linux_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert [finding.severity for finding in LocalCluster().check()] == ["error"]
