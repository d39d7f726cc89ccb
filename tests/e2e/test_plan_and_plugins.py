"""`plan` changes nothing, and a stranger's cluster works from a wheel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from e2e.packaged import DATASET_CACHER, ENV_BUILDER, LAUNCHER, SHORT, TRAINER, Project, make_wheel

# What an author writes in an afternoon: jobs run to their end inside `submit`, and leave an exit code and a log.
FOREGROUND_CLUSTER = '''
import json, subprocess
from pathlib import Path
from tunewright.contracts.clusters import Capability, ClusterInfo
from tunewright.contracts.hookspecs import hookimpl
from tunewright.contracts.jobs import JobHandle, PlannedFile, SubmissionPlan
from tunewright.contracts.spec import Spec
from tunewright.contracts.status import CauseKind, JobState, JobStatus

class Options(Spec):
    greeting: str = "hello"
    """Printed before the job starts."""

class Foreground:
    def check(self):
        return ()

    def plan(self, job, options):
        text = json.dumps({"argv": job.command, "env": job.variables, "dir": job.run_dir, "greeting": options.greeting})
        return SubmissionPlan(cluster="foreground", run=job.run, files=(PlannedFile(name="job.json", text=text),))

    def submit(self, plan, key):
        job = json.loads(plan.text_of("job.json"))
        result = Path(job["dir"], f"foreground-{key}")
        if not result.exists():
            with open(Path(job["dir"], "foreground.log"), "wb") as log:
                log.write(job["greeting"].encode() + b"\\n")
                log.flush()
                env = {**job["env"], "HOME": job["dir"]}
                code = subprocess.run(job["argv"], env=env, stdout=log, stderr=log).returncode
            result.write_text(str(code))
        return JobHandle(cluster="foreground", native_id=key, data=str(result))

    def status(self, handles):
        return {handle: self._status(handle) for handle in handles}

    def _status(self, handle):
        if not Path(handle.data).exists():
            return JobStatus(state=JobState.NOT_FOUND)
        code = int(Path(handle.data).read_text())
        state = JobState.SUCCEEDED if code == 0 else JobState.FAILED
        return JobStatus(state=state, cause=CauseKind.EXIT, exit_code=code)

    def logs(self, handle, replica=0, follow=False, since=0):
        yield Path(handle.data).with_name("foreground.log").read_bytes()[since:]

    def stop(self, handle):
        pass

@hookimpl
def tunewright_register_clusters(register):
    register.add(ClusterInfo(
        name="foreground", summary="runs the job at once", entry="foreground_cluster:Foreground", options_type=Options,
        api=1, capabilities=frozenset({Capability.PEX}),
    ))
'''


@pytest.fixture(scope="module")
def extended(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project where a stranger's wheel is installed too."""
    directory = tmp_path_factory.mktemp("wheel")
    wheel = make_wheel(directory, "foreground-cluster", "cluster-foreground", "foreground_cluster", FOREGROUND_CLUSTER)
    return replace(project, plugins=(*project.plugins, wheel))


@pytest.fixture(scope="module")
def stranger(extended: Project) -> dict[str, Any]:
    """The quickstart on the stranger's cluster: after it there is a home with a run in it."""
    return extended.launch("examples/quickstart.toml", "--cluster", "foreground", "--name", "stranger", *SHORT,
                           "--set", "cluster.options.greeting=good morning")  # fmt: skip


def test_a_cluster_from_a_wheel_is_listed(extended: Project) -> None:
    listed = json.loads(extended.launcher("plugins", "--json").stdout)
    assert "cluster-foreground" in json.dumps(listed) and "foreground" in json.dumps(listed)


def test_a_cluster_from_a_wheel_runs_the_quickstart(extended: Project, stranger: dict[str, Any]) -> None:
    assert stranger["state"] == "SUCCEEDED"
    assert extended.model_bytes("stranger")
    assert extended.launcher("logs", "stranger").stdout.startswith("good morning\n")


def test_without_the_wheel_the_cluster_is_unknown(project: Project) -> None:
    result = project.launcher("plan", "examples/quickstart.toml", "--cluster", "foreground", expect=78)
    assert "foreground" in result.stderr and "local" in result.stderr


def test_plan_twice_gives_equal_bytes_and_writes_nothing(project: Project, stranger: dict[str, Any]) -> None:
    before = snapshot(project)
    first, second = (project.launcher("plan", "examples/quickstart.toml", *SHORT).stdout for _ in range(2))
    assert first == second and "train" in first
    assert snapshot(project) == before


def test_plan_works_where_nothing_can_be_written_or_reached(project: Project, stranger: dict[str, Any]) -> None:
    # A network namespace without interfaces would need privileges; an audit hook sees every socket and every file.
    hook = (
        "import sys, os\n"
        "def watch(event, arguments):\n"
        "    if event == 'socket.__new__' or event.startswith('socket.connect'):\n"
        "        os.write(2, b'FORBIDDEN socket\\n')\n"
        "    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT\n"
        "    if event == 'open' and isinstance(arguments[2], int) and arguments[2] & writes:\n"
        "        if not str(arguments[0]).startswith('/dev/'):\n"
        "            os.write(2, f'FORBIDDEN write {arguments[0]}\\n'.encode())\n"
        "sys.addaudithook(watch)\n"
    )
    script = hook + "from tunewright.launcher.cli import main\nmain()\n"
    environment = {**project.environment, "PEX_INTERPRETER": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(LAUNCHER), "-c", script, "plan", "examples/quickstart.toml", *SHORT]
    result = subprocess.run(command, cwd=project.root, env=environment, text=True, capture_output=True, check=False,
                            timeout=60)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "FORBIDDEN" not in result.stderr, result.stderr


def test_every_program_tells_its_version_and_helps(project: Project) -> None:
    for program, name in (
        (LAUNCHER, "tunewright-launcher"),
        (DATASET_CACHER, "tunewright-dataset-cacher"),
        (ENV_BUILDER, "tunewright-env-builder"),
        (TRAINER, "tunewright-trainer"),
    ):
        assert project.call(program, "--version").stdout.startswith(f"{name} 0.")
        assert "Commands" in project.call(program, "--help").stdout


def snapshot(project: Project) -> dict[str, tuple[int, int]]:
    """Every file of the project and its home with size and time of change."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for top in (project.root, project.home)
        for path in top.rglob("*")
        if path.is_file() and ".git" not in path.parts
    } | {"cwd": (len(os.listdir(project.root)), 0)}
