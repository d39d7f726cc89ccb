"""Jobs on a real Slurm: what they get, how they end, arrays, dependencies, and how few questions Slurm is asked."""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path

import pytest
from servers.slurm_cluster import SlurmCluster as RunningSlurm

from plugins.cluster_slurm.slurm_jobs import (
    SLEEP,
    SlurmHome,
    directory_of,
    eventually,
    log,
    plan_of,
    status,
    wait,
    wait_for_log,
)
from tunewright.clusters.slurm.backend import SlurmCluster
from tunewright.contracts.errors import SubmissionRefused
from tunewright.contracts.status import CauseKind, JobState

pytestmark = pytest.mark.timeout(120)

GREEDY_ON_NODE_1 = """
import os, time
if os.environ["TUNEWRIGHT_NODE_RANK"] == "1":
    x = b"x" * (1 << 30)
time.sleep(600)
"""
PRINT_GPUS = "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))"
# Runs until the test makes the file, and ends with the exit code.
WAITS_FOR_FILE = """
import os, sys, time
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
sys.exit(int(sys.argv[2]))
"""
ENDS_IN_TURN = "import sys; print('point', sys.argv[1]); sys.exit(int(sys.argv[1]) % 3)"


def test_each_node_gets_the_gpus_it_was_promised(home: SlurmHome) -> None:
    handle = home.submit(home.job(PRINT_GPUS, nodes=2), gres="gpu:2", exclusive=True)
    assert wait(handle).state is JobState.SUCCEEDED
    assert [log(handle, replica) for replica in range(2)] == [b"0,1\n"] * 2


def test_a_node_out_of_memory_ends_the_job_and_is_named(home: SlurmHome) -> None:
    handle = home.submit(home.job(GREEDY_ON_NODE_1, nodes=2), memory_gib=0.2)
    ended = wait(handle)
    assert (ended.state, ended.cause) == (JobState.FAILED, CauseKind.OUT_OF_MEMORY)
    assert ended.shell_exit_code == 137
    assert "out of memory on node n" in ended.message and "(1 of 2)" in ended.message


def test_a_child_killed_for_memory_does_not_fail_a_job_that_ends_well(home: SlurmHome) -> None:
    script = "import subprocess, sys; subprocess.call([sys.executable, '-c', 'x = bytes(1 << 30) * 2'])"
    handle = home.submit(home.job(script), memory_gib=0.2)
    ended = wait(handle)
    assert ended.state is JobState.SUCCEEDED, ended


def test_what_slurm_does_not_take_is_refused_in_its_own_words(home: SlurmHome) -> None:
    job = home.job("pass", secrets={"TOKEN": "PATH"})
    with pytest.raises(SubmissionRefused, match="nvalid partition name specified"):
        home.submit(job, partition="no-such")
    assert not list(Path(job.run_dir).rglob("secrets.json"))


def test_a_secret_waits_in_a_private_file_and_goes_with_the_last_start(
    home: SlurmHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "hush-hush")
    script = "import os, time; print(os.environ['TOKEN'], flush=True); time.sleep(600)"
    held = home.submit(home.job(script, secrets={"TOKEN": "MY_TOKEN"}, max_retries=1))
    wait_for_log(held, b"hush-hush\n")
    file = directory_of(held) / "secrets.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    once = home.submit(home.job(script, secrets={"TOKEN": "MY_TOKEN"}))
    wait_for_log(once, b"hush-hush\n")
    assert not (directory_of(once) / "secrets.json").exists()
    SlurmCluster().stop(held)
    wait(held)
    assert not file.exists()
    assert b"hush-hush" not in _command_lines()


def _command_lines() -> bytes:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended
            lines.append(path.read_bytes())
    return b"\n".join(lines)


def test_an_array_is_one_job_of_slurms_with_an_end_for_each_point(home: SlurmHome, slurm: RunningSlurm) -> None:
    jobs = [home.job(ENDS_IN_TURN, str(number), variables={"A": "same", "B": str(number)}) for number in range(4)]
    handles = home.submit_array(jobs, at_most=2)
    assert len({handle.native_id.partition("_")[0] for handle in handles}) == 1
    assert "ArrayTaskThrottle=2" in slurm.ask("scontrol", "show", "job", handles[3].native_id)
    ended = [wait(handle) for handle in handles]
    assert [one.exit_code for one in ended] == [0, 1, 2, 0]
    assert [log(handle) for handle in handles] == [f"point {number}\n".encode() for number in range(4)]


def test_a_job_after_others_starts_when_they_have_succeeded(home: SlurmHome) -> None:
    gate = home.path / "gate"
    first = home.submit(home.job(WAITS_FOR_FILE, str(gate), "0"))
    done = home.submit(home.job("pass"))
    wait(done)
    last = home.submit(home.job("print('last')"), after=[first, done])
    assert (status(last).state, status(last).message) == (JobState.QUEUED, "Slurm: Dependency")
    gate.touch()
    assert wait(last).state is JobState.SUCCEEDED
    assert status(first).ended_at <= status(last).started_at  # type: ignore[operator]


def test_what_waits_for_a_job_that_fails_never_starts_nor_what_waits_for_that(home: SlurmHome) -> None:
    gate = home.path / "gate"
    first = home.submit(home.job(WAITS_FOR_FILE, str(gate), "3"))
    second = home.submit(home.job("print('no')"), after=[first])
    third = home.submit(home.job("print('no')"), after=[second])
    gate.touch()
    for handle in (second, third):
        ended = wait(handle)
        assert (ended.state, ended.cause) == (JobState.STOPPED, CauseKind.DEPENDENCY)
    late = home.submit(home.job("print('no')"), after=[third])
    assert (status(late).state, status(late).cause) == (JobState.STOPPED, CauseKind.DEPENDENCY)
    assert [log(handle) for handle in (second, third, late)] == [b"", b"", b""]


def test_a_hundred_jobs_are_asked_for_in_one_question_and_ended_ones_in_none(
    home: SlurmHome, slurm: RunningSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handles = [home.submit(home.job("pass")), *home.submit_array([home.job(SLEEP) for _ in range(99)], at_most=1)]
    wait(handles[0])
    asked = tmp_path / "asked"
    for program in ("squeue", "sacct"):
        wrapper = tmp_path / "bin" / program
        wrapper.parent.mkdir(exist_ok=True)
        wrapper.write_text(f'#!/bin/sh\necho {program} >> "{asked}"\nexec /usr/bin/{program} "$@"\n')
        wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    statuses = SlurmCluster().status(handles)
    assert len(statuses) == 100
    assert asked.read_text() == "squeue\n"
    SlurmCluster().status(handles[:1])
    assert asked.read_text() == "squeue\n"
    slurm.ask("scancel", handles[1].native_id.partition("_")[0])
    del home.handles[2:]  # one is waited for: they end together


def test_a_job_that_slurm_has_forgotten_is_known_by_its_own_files(home: SlurmHome) -> None:
    failed, never = home.submit(home.job("import sys; sys.exit(9)")), home.submit(home.job(SLEEP))
    wait(failed)
    (directory_of(failed) / "verdict.json").unlink()
    forgotten = failed.model_copy(update={"native_id": "1"})
    ended = status(forgotten)
    assert (ended.state, ended.cause, ended.exit_code) == (JobState.FAILED, CauseKind.EXIT, 9)
    lost = never.model_copy(update={"native_id": "1"})
    wait_for_log(never, b"up")
    SlurmCluster().stop(never)
    wait(never)
    (directory_of(never) / "verdict.json").unlink()
    assert status(lost).state.is_terminal


def test_a_number_that_slurm_gave_to_another_job_is_not_taken_for_ours(home: SlurmHome) -> None:
    mine, other = home.submit(home.job("import sys; sys.exit(9)")), home.submit(home.job(SLEEP))
    wait(mine)
    (directory_of(mine) / "verdict.json").unlink()
    wait_for_log(other, b"up")
    mistaken = mine.model_copy(update={"native_id": other.native_id})
    assert status(mistaken).exit_code == 9


def test_a_submission_that_died_before_its_note_finds_its_job(home: SlurmHome) -> None:
    job = home.job("print('ran')")
    first = home.submit(job)
    (directory_of(first) / "submitted.json").unlink()
    assert home.submit(job) == first
    wait(first)
    (directory_of(first) / "submitted.json").unlink()
    assert home.submit(job) == first
    assert log(first) == b"ran\n"


def test_awkward_directories_reach_the_nodes_as_they_are(home: SlurmHome) -> None:
    job = home.job("import os; print(os.getcwd())")
    run_dir = Path(job.run_dir).parent / """it's $HOME "so" é"""
    run_dir.mkdir()
    handle = home.submit(job.model_copy(update={"run_dir": str(run_dir)}))
    assert wait(handle).state is JobState.SUCCEEDED
    assert log(handle).decode() == f"{run_dir}\n"
    assert (directory_of(handle) / "batch.log").is_file()


def test_the_clients_own_settings_of_sbatch_change_nothing(home: SlurmHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "no-such")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SQUEUE_FORMAT", "%i")
    script = "import json, os; print(json.dumps(sorted(os.environ)))"
    handle = home.submit(home.job(script))
    assert wait(handle).state is JobState.SUCCEEDED
    assert not [name for name in json.loads(log(handle)) if name.startswith(("SLURM", "SBATCH", "SQUEUE"))]


def test_without_slurm_nothing_is_known_in_words(home: SlurmHome, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = home.submit(home.job(SLEEP))
    wait_for_log(handle, b"up")
    with monkeypatch.context() as context:
        (home.path / "bad.conf").write_text("ClusterName=\n")
        context.setenv("SLURM_CONF", str(home.path / "bad.conf"))
        unknown = status(handle)
    assert unknown.state is JobState.UNKNOWN
    assert "Slurm cannot be asked" in unknown.message
    eventually(lambda: status(handle).state is JobState.RUNNING)


def test_the_plan_is_a_script_that_sbatch_itself_finds_right(home: SlurmHome, slurm: RunningSlurm) -> None:
    job = home.job("pass", nodes=2, max_retries=1)
    plan = plan_of(
        job, partition="main", gpus_per_node=1, cpus_per_task=2, memory_gib=0.5, time_limit_minutes=9, exclusive=True,
        nodelist="n[1-2]", signal_before_end_seconds=20, sbatch=('--mail-user=it\'s "me"',),
    )  # fmt: skip
    script = Path(job.run_dir) / "by hand.sbatch"
    script.write_text(plan.text_of("job.sbatch"))
    slurm.ask("sbatch", "--test-only", str(script))
