"""Cluster `docker` beyond what every cluster must do: deaths of containers, supervisors and daemons; images, files."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.docker_engine import BASE_IMAGE

from plugins.cluster_docker.docker_jobs import (
    GREEDY,
    HELD,
    SLEEP,
    SLEEPS_AT_FIRST,
    Relay,
    client,
    containers_of,
    document,
    eventually,
    is_alive,
    kill_container,
    kill_supervisor,
    left_in_docker,
    let_go,
    log,
    make_command,
    make_job,
    make_plan,
    status,
    submit,
    wait,
    wait_for_line,
)
from tunewright.clusters.docker.backend import DockerCluster
from tunewright.clusters.docker.daemon import docker_host
from tunewright.clusters.docker.plan import PLAN_FILE, node_file
from tunewright.clusters.docker.state_directory import StateDirectory
from tunewright.clusters.docker.supervision.containers import container_body, job_id
from tunewright.clusters.docker.supervision.engine import Engine
from tunewright.contracts.datasets import CachedDataset
from tunewright.contracts.errors import SubmissionRefused, Unavailable
from tunewright.contracts.jobs import JobHandle, ModelReference
from tunewright.contracts.status import CauseKind, JobState

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


# A container dies.


def test_a_killed_container_is_started_again_and_told_so(home: Path) -> None:
    handle = submit(make_job(home, SLEEPS_AT_FIRST, max_retries=1))
    wait_for_line(handle)
    kill_container(handle)
    ended = wait(handle)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
    assert log(handle) == b"attempt 0\nattempt 1\n"
    told = [(entry["state"], entry["attempt"], entry.get("signal")) for entry in document(handle)["history"]]
    assert told == [
        ("STARTING", 0, None), ("RUNNING", 0, None), ("REQUEUED", 0, 9), ("RUNNING", 1, None), ("SUCCEEDED", 1, None),
    ]  # fmt: skip


def test_a_killed_container_without_retries_is_a_signal_and_no_lost_node(home: Path) -> None:
    handle = submit(make_job(home, SLEEP), memory_gib=1)
    wait_for_line(handle)
    kill_container(handle)
    ended = wait(handle)
    assert (ended.state, ended.cause, ended.signal, ended.exit_code) == (JobState.FAILED, CauseKind.SIGNAL, 9, None)
    assert "SIGKILL" in ended.message


def test_a_removed_container_is_a_lost_node(home: Path) -> None:
    handle = submit(make_job(home, SLEEP))
    wait_for_line(handle)
    kill_supervisor(handle)  # it would see the end before the removal
    containers_of(handle)[0].remove(force=True)
    ended = wait(handle)
    assert (ended.state, ended.cause) == (JobState.FAILED, CauseKind.NODE_LOST)


@pytest.mark.parametrize("code", [64, 65, 66, 77, 78])
def test_an_exit_code_that_cannot_get_better_is_not_retried(home: Path, code: int) -> None:
    handle = submit(make_job(home, f"print('ran'); raise SystemExit({code})", max_retries=3))
    ended = wait(handle)
    assert (ended.exit_code, ended.attempt) == (code, 0)
    assert log(handle) == b"ran\n"


@pytest.mark.parametrize(("code", "cause"), [(5, CauseKind.OUT_OF_MEMORY), (0, CauseKind.EXIT)])
def test_a_child_killed_for_memory_counts_where_the_job_fails_of_it(home: Path, code: int, cause: CauseKind) -> None:
    script = f"import subprocess, sys; subprocess.run(['python3.11', '-c', sys.argv[1]]); sys.exit({code})"
    ended = wait(submit(make_job(home, script, GREEDY), memory_gib=0.125))
    assert (ended.exit_code, ended.cause) == (code, cause)


# The supervisor dies.


def test_a_killed_supervisor_is_replaced_and_the_job_never_notices(home: Path) -> None:
    handle = submit(make_job(home, HELD + "raise SystemExit(3)"))
    wait_for_line(handle)
    first = document(handle)["supervisor"]
    kill_supervisor(handle)
    assert status(handle).state is JobState.RUNNING
    second = document(handle)["supervisor"]
    assert second != first and is_alive(second)
    let_go(handle)
    ended = wait(handle)
    assert (ended.state, ended.exit_code, ended.attempt) == (JobState.FAILED, 3, 0)
    assert log(handle) == b"up\ndone\n"


def test_what_happened_while_nobody_looked_after_the_job_is_told_truly_and_retried(home: Path) -> None:
    handle = submit(make_job(home, SLEEPS_AT_FIRST, max_retries=1))
    wait_for_line(handle)
    kill_supervisor(handle)
    kill_container(handle)
    ended = wait(handle)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
    assert log(handle) == b"attempt 0\nattempt 1\n"
    assert [entry.get("signal") for entry in document(handle)["history"] if entry["state"] == "REQUEUED"] == [9]


def test_a_job_whose_supervisor_is_dead_can_be_stopped(home: Path) -> None:
    handle = submit(make_job(home, SLEEP), stop_grace_seconds=0.2)
    wait_for_line(handle)
    kill_supervisor(handle)
    DockerCluster().stop(handle)
    assert wait(handle).state is JobState.STOPPED


def test_a_time_limit_counts_on_though_its_supervisor_was_killed(home: Path) -> None:
    handle = submit(make_job(home, SLEEP), time_limit_seconds=2.5, stop_grace_seconds=0)
    wait_for_line(handle)
    deadline = document(handle)["deadline"]
    kill_supervisor(handle)
    ended = wait(handle)
    assert (ended.state, ended.cause) == (JobState.TIMED_OUT, CauseKind.TIMEOUT)
    assert document(handle)["deadline"] == deadline


def test_where_no_supervisor_can_be_started_docker_is_believed(home: Path) -> None:
    handle = submit(make_job(home, SLEEP))
    wait_for_line(handle)
    program = Path(handle.data, "supervisor.pyz")
    whole = program.read_bytes()
    kill_supervisor(handle)
    program.write_bytes(b"raise RuntimeError('no such luck')")
    seen = status(handle)
    assert seen.state is JobState.RUNNING
    assert "no such luck" in seen.message and "running" in seen.message
    kill_container(handle)
    eventually(lambda: status(handle).state is JobState.UNKNOWN)
    assert "exited" in status(handle).message
    program.write_bytes(whole)
    assert wait(handle).signal == 9


def test_two_supervisors_for_one_job_are_one(home: Path) -> None:
    from tunewright.clusters.docker.submission import start_supervisor

    handle = submit(make_job(home, SLEEP))
    first = document(handle)["supervisor"]
    answer = start_supervisor(StateDirectory(Path(handle.data)), {})
    assert answer["answer"] == "taken"
    assert document(handle)["supervisor"] == first


def test_the_supervisor_has_nothing_of_the_clients_and_its_program_is_the_same_bytes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunewright.clusters.docker.submission import supervisor_program

    monkeypatch.setenv("LEAKED", "yes")
    handle = submit(make_job(home, SLEEP))
    pid = document(handle)["supervisor"]
    assert Path(f"/proc/{pid}/environ").read_bytes() == b""
    assert os.getsid(pid) != os.getsid(0)
    assert Path(handle.data, "supervisor.pyz").read_bytes() == supervisor_program()


def test_a_run_directory_that_is_deleted_takes_its_containers_with_it(home: Path) -> None:
    import shutil

    job = make_job(home, SLEEP)
    handle = submit(job, stop_grace_seconds=0)
    wait_for_line(handle)
    shutil.rmtree(job.run_dir)
    eventually(lambda: not left_in_docker(home))
    assert status(handle).state is JobState.NOT_FOUND


# The daemon goes away.


@pytest.fixture
def relay() -> Iterator[Relay]:
    """The daemon, in a place where it can go away."""
    with tempfile.TemporaryDirectory() as directory:  # a socket's path has 107 bytes at most: `tmp_path` may be longer
        relay = Relay(Path(directory, "docker.sock"))
        yield relay
        relay.close()


def test_a_daemon_that_goes_away_is_told_and_one_that_comes_back_goes_on(
    home: Path, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("DOCKER_HOST", relay.host)
        handle = submit(make_job(home, HELD))
    wait_for_line(handle)
    relay.close()
    eventually(lambda: status(handle).state is JobState.UNKNOWN)
    assert relay.host in status(handle).message
    relay.open()
    eventually(lambda: status(handle).state is JobState.RUNNING)
    let_go(handle)
    assert wait(handle).state is JobState.SUCCEEDED


def test_without_a_daemon_a_submission_is_refused_with_its_place(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{home}/nobody.sock")
    job = make_job(home, "pass")
    with pytest.raises(Unavailable, match=r"nobody\.sock.*\n.*DOCKER_HOST"):
        submit(job)
    assert [path.name for path in Path(job.run_dir).iterdir()] == []
    monkeypatch.delenv("DOCKER_HOST")


def test_check_tells_a_daemon_that_is_not_there_from_one_that_may_not_be_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(DockerCluster().check()) == []
    monkeypatch.setenv("DOCKER_HOST", f"unix://{home}/nobody.sock")
    (finding,) = DockerCluster().check()
    assert finding.code == "docker-daemon-unreachable"
    assert "nobody.sock" in finding.message and "DOCKER_HOST" in finding.hint
    monkeypatch.setenv("DOCKER_HOST", "ssh://somewhere")
    (finding,) = DockerCluster().check()
    assert finding.code == "docker-host-unsupported"
    with pytest.raises(Unavailable, match="ssh://somewhere"):
        submit(make_job(home, "pass"))
    monkeypatch.delenv("DOCKER_HOST")


@needs_root
def test_check_says_so_where_the_user_may_not_use_the_daemon(home: Path) -> None:
    assert list(DockerCluster().check()) == []  # all it imports is there now
    answer, end = os.pipe()
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        os.write(end, ",".join(finding.code for finding in DockerCluster().check()).encode())
        os._exit(0)
    os.close(end)
    with os.fdopen(answer, "rb") as file:
        assert file.read() == b"docker-permission-denied"
    os.waitpid(child, 0)


# Images.


@pytest.fixture
def own_image(home: Path) -> Iterator[str]:
    """The id of an image that only this test has."""
    with client() as docker:
        container = docker.containers.create(BASE_IMAGE, ["true"])
        image = container.commit(changes=f"LABEL test={uuid.uuid4().hex}")
        container.remove()
        yield str(image.id)
        with contextlib.suppress(Exception):
            docker.images.remove(image.id, force=True)


def test_an_image_deleted_under_a_run_is_told_in_words_and_not_retried(home: Path, own_image: str) -> None:
    from docker.errors import APIError

    handle = submit(make_job(home, "raise SystemExit(9)", max_retries=50), image=own_image)
    with client() as docker:

        def is_removed() -> bool:
            try:
                docker.images.remove(own_image, force=True)
            except APIError:
                return False  # a container runs from it just now
            return True

        eventually(is_removed)
    ended = wait(handle)
    assert (ended.state, ended.cause) == (JobState.FAILED, CauseKind.IMAGE_MISSING)
    assert own_image in ended.message and "env-builder build" in ended.message
    assert ended.attempt < 50


def test_a_retry_runs_the_image_of_the_first_attempt_though_its_tag_moved(home: Path, own_image: str) -> None:
    tag = f"tunewright-test-{uuid.uuid4().hex[:8]}"
    with client() as docker:
        docker.images.get(own_image).tag(tag, "one")
        try:
            handle = submit(make_job(home, SLEEPS_AT_FIRST, max_retries=1), image=f"{tag}:one")
            wait_for_line(handle)
            assert containers_of(handle)[0].attrs["Config"]["Labels"]["ai.tunewright.image"] == f"{tag}:one"
            docker.images.get(BASE_IMAGE).tag(tag, "one")
            assert containers_of(handle)[0].attrs["Image"] == own_image
            kill_container(handle)
            eventually(lambda: log(handle).count(b"\n") == 2)
            assert wait(handle).state is JobState.SUCCEEDED
            assert json.loads(Path(handle.data, "known.json").read_text())["image"] == own_image
        finally:
            docker.images.remove(f"{tag}:one")


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("tunewright-no-such-image:1", "(?s)tunewright-no-such-image:1.*env-builder build"),
        (f"127.0.0.1:9/nothing@sha256:{'0' * 64}", "cannot be pulled"),
        (f"sha256:{'0' * 64}", "(?s)sha256:000.*env-builder build"),
    ],
)
def test_an_image_that_is_not_there_is_refused_by_name(home: Path, image: str, words: str) -> None:
    job = make_job(home, "pass")
    with pytest.raises(SubmissionRefused, match=words):
        submit(job, image=image)
    assert [path.name for path in Path(job.run_dir).iterdir()] == []


def test_an_image_without_a_shell_is_told_in_words(home: Path) -> None:
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"), io.BytesIO())
    tag = f"tunewright-test-{uuid.uuid4().hex[:8]}"
    with client() as docker:
        docker.api.import_image_from_data(empty.getvalue(), repository=tag, tag="empty")
        try:
            ended = wait(submit(make_job(home, "pass", max_retries=3), image=f"{tag}:empty"))
        finally:
            docker.images.remove(f"{tag}:empty", force=True)
    assert (ended.cause, ended.attempt) == (CauseKind.IMAGE_MISSING, 0)
    assert "the image has no /bin/sh" in ended.message


# What cannot be started.


def test_a_gpu_on_a_machine_without_one_is_refused_and_leaves_nothing(home: Path) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SubmissionRefused, match=r"(?s)no GPU.*NVIDIA container toolkit"):
        submit(make_job(home, "pass"), gpus="all")
    assert not left_in_docker(home)


def test_a_missing_program_is_named_and_not_retried(home: Path) -> None:
    ended = wait(submit(make_command(home, "no-such-program", max_retries=3)))
    assert (ended.state, ended.cause, ended.exit_code) == (JobState.FAILED, CauseKind.IMAGE_MISSING, 127)
    assert "no-such-program" in ended.message
    assert ended.attempt == 0


def test_a_job_that_ends_with_127_itself_is_no_missing_program(home: Path) -> None:
    ended = wait(submit(make_job(home, "raise SystemExit(127)")))
    assert (ended.cause, ended.exit_code) == (CauseKind.EXIT, 127)


def test_a_mount_that_is_not_there_is_refused_and_never_made(home: Path) -> None:
    missing = home / "nowhere"
    for fields, options in (
        ({"dataset": CachedDataset(digest="d", path=str(missing))}, {}),
        ({"model": ModelReference(name_or_path=str(missing))}, {}),
        ({}, {"mounts": [f"{missing}:/data"]}),
    ):
        with pytest.raises(SubmissionRefused, match="nowhere is to be mounted"):
            submit(make_job(home, "pass", **fields), **options)
    assert not missing.exists()


def test_the_dataset_and_the_model_are_there_to_read_only(home: Path) -> None:
    places = [home / "cache", home / "model", home / "mine", home / "theirs"]
    for place in places:
        place.mkdir()
        (place / "file").write_text(place.name)
    script = """
import sys
for path in sys.argv[1:]:
    try:
        open(path + "/new", "w")
    except OSError as error:
        print(open(path + "/file").read(), error.strerror)
    else:
        print(open(path + "/file").read(), "written")
"""
    job = make_job(
        home,
        script,
        *map(str, places[:2]),
        "/mine",
        "/theirs",
        dataset=CachedDataset(digest="d", path=str(places[0])),
        model=ModelReference(name_or_path=str(places[1])),
    )
    handle = submit(job, mounts=[f"{places[2]}:/mine", f"{places[3]}:/theirs:ro"])
    assert wait(handle).state is JobState.SUCCEEDED
    read_only = "Read-only file system"
    assert log(handle).decode().splitlines() == [
        f"cache {read_only}", f"model {read_only}", "mine written", f"theirs {read_only}",
    ]  # fmt: skip


# Whose files.


@needs_root
def test_what_the_job_writes_belongs_to_the_owner_of_the_runs_directory(home: Path) -> None:
    home.chmod(0o755)
    job = make_job(home, "import os; open('made', 'w'); print(os.getuid(), os.getgid(), os.environ['HOME'])")
    os.chown(job.run_dir, 12345, 23456)
    handle = submit(job)
    assert wait(handle).state is JobState.SUCCEEDED
    assert log(handle) == b"12345 23456 /tmp\n"
    for name in ("made", "logs", "logs/replica-0.log"):
        made = Path(job.run_dir, name).stat()
        assert (made.st_uid, made.st_gid) == (12345, 23456), name


@needs_root
def test_a_log_that_the_jobs_user_cannot_write_is_told_in_words(home: Path) -> None:
    ended = wait(submit(make_job(home, "pass"), user="12345"))
    assert (ended.state, ended.cause) == (JobState.FAILED, CauseKind.IMAGE_MISSING)
    assert "replica-0.log" in ended.message and "Permission denied" in ended.message


def test_a_user_the_image_does_not_know_is_refused_in_words(home: Path) -> None:
    with pytest.raises(SubmissionRefused, match="no user `nobody-knows`"):
        submit(make_job(home, "pass"), user="nobody-knows")


# What a container is made of.


def test_limits_and_labels_are_what_the_plan_says(home: Path) -> None:
    handle = submit(make_job(home, SLEEP), memory_gib=0.5, cpus=1.5, shm_gib=0.25, network="none")
    attrs = containers_of(handle)[0].attrs
    config = attrs["HostConfig"]
    assert (config["Memory"], config["MemorySwap"], config["NanoCpus"]) == (1 << 29, 1 << 29, 1_500_000_000)
    assert (config["ShmSize"], config["Init"], config["NetworkMode"]) == (1 << 28, True, "none")
    labels = attrs["Config"]["Labels"]
    assert labels["ai.tunewright.run"] == "run-0"
    assert labels["ai.tunewright.id"] == handle.native_id
    assert (labels["ai.tunewright.node"], labels["ai.tunewright.attempt"]) == ("0", "0")
    assert str(containers_of(handle)[0].name).startswith(handle.native_id)


def test_kept_containers_stay_and_everything_else_goes(home: Path) -> None:
    handle = submit(make_job(home, "raise SystemExit(9)", max_retries=1), keep_containers=True)
    assert wait(handle).exit_code == 9
    kept = containers_of(handle)
    try:
        assert [container.attrs["State"]["ExitCode"] for container in kept] == [9, 9]
        assert b"replica-0.log" in kept[0].logs()
    finally:
        for container in kept:
            container.remove()


# Submissions that were cut short.


def test_what_a_dead_submission_left_is_removed_and_the_job_runs_once(home: Path) -> None:
    job = make_job(home, "print('ran')")
    plan = make_plan(job)
    directory = StateDirectory.of(Path(job.run_dir), job.run)
    directory.path.mkdir(parents=True)
    (directory.path / "lock").touch()
    known = {"id": job_id(job.run, job.run_dir, job.run), "key": job.run, "image": BASE_IMAGE, "user": "0:0"}
    body = container_body(json.loads(plan.text_of(node_file(0))), known, 0)
    left = Engine(docker_host()).create("tunewright-left-" + uuid.uuid4().hex[:8], body)
    handle = JobHandle(cluster="docker", native_id="?", data=str(directory.path))
    assert status(handle).state is JobState.NOT_FOUND
    assert submit(job).data == handle.data
    assert wait(handle).state is JobState.SUCCEEDED
    assert log(handle) == b"ran\n"
    assert Engine(docker_host()).state(left) is None


def test_a_job_that_was_made_and_not_started_is_started_by_who_asks(home: Path) -> None:
    handle = submit(make_job(home, "print('ran')"))
    wait(handle)
    told = {**document(handle), "state": "STARTING", "phase": "start", "containers": [], "ended_at": None}
    Path(handle.data, "state.json").write_text(json.dumps({**told, "outcome": None, "cause": None, "exit_code": None}))
    assert wait(handle).state is JobState.SUCCEEDED
    assert log(handle) == b"ran\nran\n"


def test_a_verdict_is_kept_though_the_supervisor_died_while_it_cleaned_up(home: Path) -> None:
    handle = submit(make_job(home, "raise SystemExit(4)"))
    wait(handle)
    eventually(lambda: not StateDirectory(Path(handle.data)).is_supervised())
    told = {**document(handle), "state": "RUNNING", "phase": "conclude", "cause": None, "exit_code": None}
    told.pop("ended_at")
    Path(handle.data, "state.json").write_text(json.dumps(told))
    assert wait(handle).exit_code == 4


def test_a_key_that_is_no_file_name_stays_in_the_run_directory(home: Path) -> None:
    job = make_job(home, "pass")
    for key in ("../../outside", "x" * 400):
        handle = DockerCluster().submit(make_plan(job), key)
        wait(handle)
        assert Path(handle.data).parent == Path(job.run_dir, "docker")
    assert sorted(path.name for path in home.iterdir()) == ["runs"]


def test_a_run_directory_that_cannot_be_written_is_refused_in_words(home: Path) -> None:
    job = make_job(home, "pass")
    Path(job.run_dir, "docker").write_text("a file in the way")
    with pytest.raises(SubmissionRefused, match="cannot write to"):
        submit(job)


def test_the_plan_in_the_state_directory_is_the_plan_that_was_sent(home: Path) -> None:
    job = make_job(home, "pass")
    handle = submit(job)
    wait(handle)
    for name in (PLAN_FILE, node_file(0)):
        assert Path(handle.data, name).read_text() == make_plan(job).text_of(name)


def test_a_failure_at_the_first_start_lets_the_next_submission_try(home: Path) -> None:
    job = make_job(home, "print('ran')")
    with pytest.raises(SubmissionRefused):
        submit(job, user="nobody-knows")
    started = time.monotonic()
    handle = submit(job)
    assert wait(handle).state is JobState.SUCCEEDED
    assert time.monotonic() - started < 20
