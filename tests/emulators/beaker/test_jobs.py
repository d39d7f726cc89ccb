from __future__ import annotations

from pathlib import Path

import pytest
from beaker import Beaker, BeakerEnvVar, BeakerTaskResources

from emulators.beaker.experiments import (
    Code,
    Status,
    ended,
    experiment,
    jobs_of,
    last_line,
    lines,
    run,
    running_job,
    shell_words,
    task,
    wait_for,
)
from tunewright.beaker_emulator.starting import RunningEmulator

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize(("code", "status"), [(0, "STATUS_SUCCEEDED"), (1, "STATUS_FAILED"), (42, "STATUS_FAILED")])
def test_the_exit_code_is_the_tasks_own(client: Beaker, code: int, status: str) -> None:
    job = run(client, experiment(task(f"exit {code}")))
    assert (job.status.exit_code, Status.Name(job.status.status)) == (code, status)
    assert job.status.HasField("failed") == (code != 0)


def test_the_moments_of_a_job_come_in_their_order(client: Beaker) -> None:
    status = run(client, experiment(task("sleep 0.2"))).status
    moments = [
        getattr(status, name).ToNanoseconds() for name in ("created", "scheduled", "started", "exited", "finalized")
    ]
    assert moments == sorted(moments)
    assert moments[3] - moments[2] > 100_000_000


def test_a_signal_ends_a_task_with_128_and_its_number(client: Beaker) -> None:
    assert run(client, experiment(task("kill -SEGV $$"))).status.exit_code == 139


def test_arguments_arrive_as_they_were_sent(client: Beaker) -> None:
    told = ["", "a b", "it's", '"quoted"', "$HOME $$", "new\nline", "naïve ☃"]
    spec = task(r"""for argument; do printf '[%s]' "$argument"; done""", "sh")
    spec.arguments = told
    log = b"\n".join(lines(client, run(client, experiment(spec))))
    assert log.decode() == "".join(f"[{argument}]" for argument in told)


def test_a_task_is_told_who_and_where_it_is(client: Beaker) -> None:
    names = ["BEAKER_JOB_ID", "BEAKER_TASK_ID", "BEAKER_EXPERIMENT_ID", "BEAKER_NODE_ID", "BEAKER_RESULT_DATASET_ID"]
    names += ["BEAKER_ASSIGNED_GPU_COUNT", "BEAKER_NODE_HOSTNAME"]
    spec = task(shell_words(names), cluster="ai2/gpus", resources=BeakerTaskResources(gpu_count=3))
    job = run(client, experiment(spec))
    node = client.node.get(job.assignment_details.node_id)
    told = dict(line.decode().split("=", 1) for line in lines(client, job))
    assert told == {
        "BEAKER_JOB_ID": job.id,
        "BEAKER_TASK_ID": job.task_id,
        "BEAKER_EXPERIMENT_ID": job.workload_id,
        "BEAKER_NODE_ID": node.id,
        "BEAKER_RESULT_DATASET_ID": job.assignment_details.result_dataset_id,
        "BEAKER_ASSIGNED_GPU_COUNT": "3",
        "BEAKER_NODE_HOSTNAME": node.hostname,
    }
    assert len(job.assignment_details.resource_assignment.gpus) == 3


def test_nothing_of_the_emulators_environment_reaches_a_task(client: Beaker, emulator: RunningEmulator) -> None:
    spec = task("tr '\\0' '\\n' < /proc/self/environ", env_vars=[BeakerEnvVar("MINE", "yes")])
    names = {line.split(b"=")[0].decode() for line in lines(client, run(client, experiment(spec)))}
    own = {"MINE", "PATH", "HOME"}
    assert own <= names
    assert all(name in own or name.startswith("BEAKER_") for name in names)
    assert not {"BEAKER_CONFIG", "BEAKER_TOKEN"} & names


def test_the_standard_input_of_a_task_is_empty(client: Beaker) -> None:
    job = run(client, experiment(task("wc -c; ls /proc/self/fd | wc -l")))
    assert [int(line) for line in lines(client, job)] == [0, 4]


def test_a_secret_reaches_the_task_that_names_it_and_nothing_else(client: Beaker, emulator: RunningEmulator) -> None:
    value = "correct-horse-battery"
    client.secret.write("jobs_token", value)
    spec = task(
        'echo "$TOKEN" | tr a-z b-za; cat /proc/*/cmdline | tr "\\0" " "',
        env_vars=[BeakerEnvVar("TOKEN", secret="jobs_token")],
    )
    job = run(client, experiment(spec))
    log = b"\n".join(lines(client, job))
    assert b"dpssfdu-ipstf-cbuufsz" in log
    assert value.encode() not in log
    kept = [path for path in emulator.state.rglob("*") if path.is_file() and value.encode() in path.read_bytes()]
    assert [path.parent.name for path in kept] == ["secrets"]
    assert kept[0].stat().st_mode & 0o77 == 0


def test_lines_of_a_log_come_as_they_were_written_each_with_its_moment(client: Beaker) -> None:
    job = run(client, experiment(task(r"printf 'one\n\n\377\000two\r\n'; sleep 1; printf three >&2")))
    told = list(client.job.logs(job))
    assert [line.message for line in told] == [b"one", b"", b"\xff\x00two\r", b"three"]
    moments = [line.timestamp.ToNanoseconds() for line in told]
    assert moments == sorted(set(moments))
    assert moments[3] - moments[2] > 100_000_000
    assert lines(client, job, tail_lines=2) == [b"\xff\x00two\r", b"three"]


def test_a_log_is_followed_while_it_grows_to_the_end_of_the_job(client: Beaker, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"echo first; until test -e {gate}; do sleep 0.05; done; echo second"
    job = running_job(client, client.experiment.create(spec=experiment(task(script))))
    arrived = []
    for line in client.job.logs(job, follow=True):
        arrived.append(line.message)
        gate.touch()
    assert arrived == [b"first", b"second"]
    assert client.job.get(job.id).status.HasField("finalized")


def test_a_log_of_megabytes_is_told_whole(client: Beaker) -> None:
    job = run(client, experiment(task("seq 1 3000; head -c 10000000 /dev/zero | tr '\\0' x")))
    told = lines(client, job)
    assert told[:-2] == [str(number).encode() for number in range(1, 3_001)]
    # Cut, or one line could be longer than a message may be.
    assert [len(line) for line in told[-2:]] == [8 << 20, 10_000_000 - (8 << 20)]
    assert told[-1] == b"x" * (10_000_000 - (8 << 20))


def test_canceling_ends_the_whole_tree_first_gently(client: Beaker) -> None:
    script = "trap 'echo told; exit 5' TERM; sleep 300 & setsid sleep 301 & echo $! ; wait"
    workload = client.experiment.create(spec=experiment(task(script)))
    job = running_job(client, workload)
    escaped = int(last_line(client, job))
    assert list(client.workload.cancel(workload)) == [workload.experiment.id]
    job = jobs_of(client, ended(client, workload))[0]
    assert lines(client, job)[-1] == b"told"
    assert (job.status.exit_code, job.status.canceled_code) == (5, Code.CANCELATION_CODE_MANUAL)
    assert Status.Name(job.status.status) == "STATUS_CANCELED"
    assert not Path(f"/proc/{escaped}").exists()


def test_what_ignores_sigterm_is_killed_after_the_grace(client: Beaker) -> None:
    workload = client.experiment.create(spec=experiment(task("trap '' TERM; echo ready; sleep 300; sleep 300")))
    assert last_line(client, running_job(client, workload)) == b"ready"
    client.workload.cancel(workload)
    assert jobs_of(client, ended(client, workload))[0].status.exit_code == 137


def test_what_a_task_leaves_behind_ends_with_it(client: Beaker) -> None:
    job = run(client, experiment(task("setsid sleep 300 & echo $!")))
    left = int(lines(client, job)[0])
    wait_for(lambda: not Path(f"/proc/{left}").exists(), "the process is gone")


def test_more_memory_than_the_limit_ends_the_job_with_words(client: Beaker) -> None:
    script = "python3 -c 'held = bytearray(300 << 20); import time; time.sleep(60)'"
    job = run(client, experiment(task(script, resources=BeakerTaskResources(memory="100MiB"))))
    assert job.status.exit_code == 137
    assert job.status.message.startswith("OOMKilled")
    assert str(100 << 20) in job.status.message


def test_a_job_within_its_memory_is_left_alone(client: Beaker) -> None:
    script = "python3 -c 'held = bytearray(20 << 20); import time; time.sleep(0.3)'"
    job = run(client, experiment(task(script, resources=BeakerTaskResources(memory="200MiB"))))
    assert (job.status.exit_code, job.status.message) == (0, "")


def test_a_timeout_cancels_the_job(client: Beaker) -> None:
    job = run(client, experiment(task("sleep 300", timeout="500ms")))
    assert job.status.canceled_code == Code.CANCELATION_CODE_TIMEOUT
    assert Status.Name(job.status.status) == "STATUS_CANCELED"


def test_a_command_that_is_not_there_fails_with_words(client: Beaker) -> None:
    spec = task("unused")
    spec.command = ["/no/such/program"]
    job = run(client, experiment(spec))
    assert Status.Name(job.status.status) == "STATUS_FAILED"
    assert not job.status.HasField("exit_code")
    assert "/no/such/program" in job.status.message or "No such file" in job.status.message


def test_failed_tasks_are_tried_again_as_often_as_allowed(client: Beaker, tmp_path: Path) -> None:
    workload = client.experiment.create(spec=experiment(task(f"echo x >> {tmp_path}/tries; exit 9"), retries=2))
    assert ended(client, workload).status == Status.STATUS_FAILED
    jobs = jobs_of(client, workload)
    assert [job.status.exit_code for job in jobs] == [9, 9, 9]
    assert [job.retry_ancestor_id for job in jobs] == ["", jobs[0].id, jobs[1].id]
    assert (tmp_path / "tries").read_text() == "x\n" * 3


def test_a_restart_runs_failed_tasks_again_and_no_others(client: Beaker, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    spec = experiment(task(f"test -e {flag}", name="flagged"), task("true", name="fine"))
    workload = client.experiment.create(spec=spec)
    assert ended(client, workload).status == Status.STATUS_FAILED
    flag.touch()
    client.workload.restart_tasks(workload)
    assert ended(client, workload).status == Status.STATUS_SUCCEEDED
    assert [len(jobs_of(client, workload, position)) for position in (0, 1)] == [2, 1]


def test_a_task_waits_for_the_result_that_it_mounts(client: Beaker, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    first = task(f"sleep 0.5; echo 7 > {tmp_path}/out/number", name="train", result_path=f"{tmp_path}/out")
    second = task(f"cat {seen}/number", name="evaluate").with_dataset(str(seen), result="train")
    workload = client.experiment.create(spec=experiment(first, second))
    assert client.workload.get_latest_job(workload, task=workload.experiment.tasks[1]) is None
    assert ended(client, workload).status == Status.STATUS_SUCCEEDED
    assert lines(client, jobs_of(client, workload, 1)[0]) == [b"7"]


def test_a_task_whose_needed_result_failed_never_runs(client: Beaker, tmp_path: Path) -> None:
    first = task("exit 1", name="train", result_path=f"{tmp_path}/out")
    second = task("true", name="evaluate").with_dataset(f"{tmp_path}/seen", result="train")
    workload = ended(client, client.experiment.create(spec=experiment(first, second)))
    assert [Status.Name(task.status) for task in workload.experiment.tasks] == ["STATUS_FAILED", "STATUS_CANCELED"]
    assert jobs_of(client, workload, 1) == []


def test_results_are_a_committed_dataset(client: Beaker, tmp_path: Path) -> None:
    script = f"cd {tmp_path}/out; mkdir deep; echo model > deep/file; echo '{{\"loss\": 0.5}}' > metrics.json"
    job = run(client, experiment(task(script, result_path=f"{tmp_path}/out")))
    dataset = client.job.get_results(job)
    assert dataset is not None and dataset.HasField("committed")
    assert sorted(file.path for file in client.dataset.list_files(dataset)) == ["deep/file", "metrics.json"]
    assert b"".join(client.dataset.stream_file(dataset, "deep/file")) == b"model\n"
    assert job.metrics["loss"] == 0.5
    assert not (tmp_path / "out").exists()


def test_jobs_have_their_own_results_at_the_same_path(client: Beaker, tmp_path: Path) -> None:
    out = tmp_path / "out"
    spec = task(f"echo $BEAKER_REPLICA_RANK > {out}/rank; sleep 0.5; ls {out}", result_path=str(out), replicas=2)
    workload = ended(client, client.experiment.create(spec=experiment(spec)))
    for position in (0, 1):
        dataset = client.workload.get_results(workload, task=workload.experiment.tasks[position])
        assert dataset is not None
        assert b"".join(client.dataset.stream_file(dataset, "rank")) == f"{position}\n".encode()


def test_weka_and_host_paths_are_shared_and_secrets_are_files(client: Beaker, tmp_path: Path) -> None:
    client.secret.write("file_secret", "in a file")
    host = tmp_path / "host"
    host.mkdir()
    spec = (
        task(f"cat {tmp_path}/secret; echo kept > {tmp_path}/bucket/file; echo here > {tmp_path}/seen/file")
        .with_dataset(f"{tmp_path}/bucket", weka="shared", sub_path="a/b")
        .with_dataset(f"{tmp_path}/secret", secret="file_secret")
        .with_dataset(f"{tmp_path}/seen", host_path=str(host))
    )
    assert lines(client, run(client, experiment(spec))) == [b"in a file"]
    again = task(f"cat {tmp_path}/all/a/b/file").with_dataset(f"{tmp_path}/all", weka="shared")
    assert lines(client, run(client, experiment(again))) == [b"kept"]
    assert (host / "file").read_text() == "here\n"


def test_a_mounted_dataset_cannot_be_written(client: Beaker, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("as it was\n")
    dataset = client.dataset.create("read-only", tmp_path / "file", strip_paths=True)
    spec = task(f"cat {tmp_path}/seen/file; echo more > {tmp_path}/seen/other").with_dataset(
        f"{tmp_path}/seen", beaker=dataset.id
    )
    job = run(client, experiment(spec))
    assert lines(client, job)[0] == b"as it was"
    assert job.status.exit_code != 0
    assert [file.path for file in client.dataset.list_files(dataset)] == ["file"]


def test_forty_jobs_on_thirty_two_slots_all_end(client: Beaker) -> None:
    tasks = [task("true", name=f"point-{number}") for number in range(40)]
    workload = ended(client, client.experiment.create(spec=experiment(*tasks)))
    assert {Status.Name(one.status) for one in workload.experiment.tasks} == {"STATUS_SUCCEEDED"}
