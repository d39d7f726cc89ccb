"""The detached waiter: it outlives its launcher and the place the launcher ran from, and is there once."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO

import pytest

from components.launcher.conftest import install
from components.launcher.project import FAILING, HELD, Project, of_stage, wait_until
from tunewright.contracts.errors import Unavailable
from tunewright.contracts.status import CauseKind, JobState, JobStatus
from tunewright.launcher import waiter
from tunewright.launcher.batch import Batch, Member, decide, exit_code_of
from tunewright.launcher.program_copy import copy_program
from tunewright.launcher.waiter import start_waiter

pytestmark = pytest.mark.timeout(180)

STAGES = """
[[stages]]
name = "first"
[[stages]]
name = "second"
[[stages]]
name = "third"
"""
HELD_FIRST = of_stage(0, HELD)

# A plugin of somebody else's, which needs another module no sooner than it sends a job.
LATE = """
from components.launcher.stranger import Yard, YardOptions
from tunewright.contracts.clusters import Capability, ClusterInfo
from tunewright.contracts.hookspecs import hookimpl

class Late(Yard):
    def submit(self, plan, key):
        import late_words
        return super().submit(plan, key).model_copy(update={"cluster": late_words.NAME})

@hookimpl
def tunewright_register_clusters(register):
    pex_only = frozenset({Capability.PEX})
    register.add(ClusterInfo("late", "a yard that is late", f"{__name__}:Late", YardOptions, 1, pex_only))
"""
FAILING_SECOND = of_stage(1, FAILING)


@pytest.fixture
def stages(project: Project) -> Project:
    (project.root / "stages.toml").write_text((project.root / "count.toml").read_text() + STAGES)
    project.git("add", "--all")
    project.git("commit", "--quiet", "-m", "stages")
    return project


def waiter_of(project: Project, name: str = "count") -> int:
    document = json.loads((project.home / "pipelines" / name / "waiter.json").read_text())
    return int(document["pid"])


def test_a_detached_pipeline_comes_to_its_end_and_is_waited_for_by_its_name(stages: Project) -> None:
    answer = stages.launcher("launch", "stages.toml", *HELD_FIRST, "--detach", "--json")
    document = answer.last_document
    assert (document["pipeline"], document["run"]) == ("count", "count-first")
    assert [one["state"] for one in document["stages"]] == ["RUNNING", "PENDING", "PENDING"]
    assert "waits to be started" in stages.launcher("status", "count-second", "--json").document["message"]
    assert [row["state"] for row in stages.launcher("list", "--json").document][1:] == ["PENDING", "PENDING"]
    stages.let_go()
    document = stages.launcher("wait", "count", "--json").last_document
    assert [(row["stage"], row["state"]) for row in document["runs"]] == [
        ("first", "SUCCEEDED"), ("second", "SUCCEEDED"), ("third", "SUCCEEDED"),
    ]  # fmt: skip
    assert stages.json("count-third", "provenance.json")["model"]["run"] == "count-second"
    assert stages.launcher("launch", "stages.toml", *HELD_FIRST, "--name", "count").err.count("is not run again") == 3


def test_a_failed_stage_ends_those_after_it_and_launch_goes_on_with_them(stages: Project) -> None:
    stages.launcher("launch", "stages.toml", *FAILING_SECOND, "--detach")
    document = stages.launcher("wait", "count", "--json", expect=42).last_document
    ends = [(row["state"], row["cause"]) for row in document["runs"]]
    assert ends == [("SUCCEEDED", "exit"), ("FAILED", "exit"), ("STOPPED", "dependency")]
    assert document["runs"][2]["message"] == "run count-second, which it starts after, has not succeeded"
    assert stages.launcher("status", "count-third", "--json").document["cause"] == "dependency"
    assert stages.json("count-third", "provenance.json")["outcome"]["cause"] == "dependency"
    document = stages.launcher("launch", "stages.toml", *FAILING_SECOND, "--name", "count", "--json").last_document
    assert [one["state"] for one in document["stages"]] == ["SUCCEEDED"] * 3
    assert len(list(stages.run("count-first").glob("yard/*"))) == 1


def test_the_waiter_outlives_the_place_its_launcher_ran_from(stages: Project, tmp_path: Path) -> None:
    """As under `pants run`: the sources lie in a sandbox that goes with the command, and variables speak of it."""
    sandbox = tmp_path / "sandbox"
    places = list(importlib.import_module("tunewright").__path__)
    for place in reversed(places):
        shutil.copytree(place, sandbox / "tunewright", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    ours = [str(Path(place).parent) for place in places]
    path = [str(sandbox), *(entry for entry in sys.path if entry not in ours)]
    pants = {"PANTS_VERSION": "2.17.1", "_PANTS_SERVER_EXE": "pants", "PANTSD_REQUEST_TIMEOUT_LIMIT": "60"}
    variables = {"PYTHONPATH": os.pathsep.join(path), "PEX_EXTRA_SYS_PATH": str(sandbox), **pants}
    call = "import sys, tunewright.launcher.cli as cli; print(cli.__file__, file=sys.stderr); cli.main()"
    command = [sys.executable, "-c", call, "launch", "stages.toml", *HELD_FIRST, "--detach"]
    done = subprocess.run(
        command, cwd=stages.root, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout == "count\n" and str(sandbox) in done.stderr, done.stderr
    shutil.rmtree(sandbox)
    pid = waiter_of(stages)
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"PANTS" not in environment and b"PEX" not in environment
    assert os.getsid(pid) == pid
    stages.let_go()
    assert stages.launcher("wait", "count").out.count("succeeded") == 3
    log = (stages.home / "pipelines" / "count" / "waiter.log").read_text()
    assert "Traceback" not in log, log


def pex_cache(directory: Path) -> Path:
    """A cache as a PEX has it: links to every third-party package that is loaded here, and a late plugin."""
    packages = install(directory / "venv" / "site-packages", "late", "late_yard")
    (packages / "late_yard.py").write_text(LATE)
    (packages / "late_words.py").write_text("NAME = 'late'")
    for entry in (Path(entry) for entry in sys.path if "site-packages" in entry):
        for name in {name.partition(".")[0] for name in sys.modules}:
            for found in (entry / name, entry / f"{name}.py"):
                if found.exists() and not (packages / found.name).exists():
                    (packages / found.name).symlink_to(found)
    return packages


def test_the_waiter_outlives_the_temporary_cache_of_the_pex_its_launcher_ran_from(
    stages: Project, tmp_path: Path
) -> None:
    """`PEX_ROOT=$(mktemp -d)`: third-party packages lie in the cache. Some of them are imported late."""
    cache = tmp_path / "pex-root"
    ours = [entry for entry in sys.path if "site-packages" not in entry]
    path = os.pathsep.join([*ours, str(pex_cache(cache))])
    variables = {"PYTHONPATH": path, "PEX": "launcher.pex", "TMPDIR": str(tmp_path)}
    call = "import click, sys, tunewright.launcher.cli as cli; print(click.__file__, file=sys.stderr); cli.main()"
    command = [sys.executable, "-S", "-c", call, "launch", "stages.toml", *HELD_FIRST, "--cluster", "late", "--detach"]
    done = subprocess.run(
        command, cwd=stages.root, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and str(cache) in done.stderr, done.stderr
    shutil.rmtree(cache)
    directory = stages.home / "pipelines" / "count"
    pid = waiter_of(stages)
    stages.let_go()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the waiter's end")
    log = (directory / "waiter.log").read_text()
    assert log.count("succeeded") >= 3 and "Traceback" not in log, log
    assert stages.json("count-third", "handle.json")["cluster"] == "late"
    assert not (directory / "program").exists()


def test_packages_that_stay_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEX", "launcher.pex")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    program = copy_program(tmp_path)
    assert program.python == sys.executable
    assert program.path[1:] == tuple(dict.fromkeys(entry for entry in sys.path if entry))
    assert (tmp_path / "program" / "tunewright").is_dir() and not (tmp_path / "program" / ".packages").exists()


def test_a_waiter_is_not_started_twice_and_a_new_one_takes_the_place_of_one_that_died(stages: Project) -> None:
    stages.launcher("launch", "stages.toml", *HELD_FIRST, "--detach")
    first = waiter_of(stages)
    again = stages.launcher("launch", "stages.toml", *HELD_FIRST, "--detach", "--name", "count")
    assert "another process starts its runs already" in again.err and waiter_of(stages) == first
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{first}").exists() or "Z" in Path(f"/proc/{first}/stat").read_text(), "its end")
    stages.launcher("launch", "stages.toml", *HELD_FIRST, "--detach", "--name", "count")
    second = waiter_of(stages)
    assert second != first and len(list(stages.run("count-first").glob("yard/*"))) == 1
    document = stages.launcher("stop", "count", "--json").document
    assert [row["state"] for row in document["runs"]] == ["STOPPED"] * 3
    wait_until(lambda: not (stages.home / "pipelines" / "count" / "waiter.json").exists(), "the waiter's end")


def test_wait_says_where_nobody_starts_the_rest(stages: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunewright.launcher.drive._NOBODY_SECONDS", 0.5)
    stages.launcher("launch", "stages.toml", *HELD_FIRST, "--detach")
    os.kill(waiter_of(stages), signal.SIGKILL)
    late = stages.launcher("wait", "count", "--timeout", "0", expect=75)
    assert "has not ended within 0 seconds" in late.err
    stages.let_go()
    answer = stages.launcher("wait", "count", expect=75)
    assert "2 run(s) wait, and nobody is there to start them" in answer.err and "--name count" in answer.err


def test_a_waiter_that_cannot_start_says_why(stages: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    stages.launcher("launch", "stages.toml")
    batch = Batch("pipeline", "count", stages.home, (Member("count-first", stage="first"),))
    monkeypatch.setattr("tunewright.launcher.waiter._BOOT", "raise SystemExit('no such thing')")
    with pytest.raises(Unavailable, match="the waiter did not start: no such thing"):
        start_waiter(batch)


def test_a_waiter_that_has_ended_before_its_launcher_looks_had_begun(
    stages: Project, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stages.launcher("launch", "stages.toml")
    batch = Batch("pipeline", "count", stages.home, (Member("count-first", stage="first"),))

    def late(batch: Batch, answer: BinaryIO) -> None:
        log = batch.directory / "waiter.log"
        wait_until(lambda: "all have ended" in log.read_text(), "the waiter's last word")
        wait_until(lambda: not (batch.directory / "waiter.json").exists(), "the waiter's end")
        first_word(batch, answer)

    first_word = waiter._wait_for_first_word
    monkeypatch.setattr(waiter, "_wait_for_first_word", late)
    start_waiter(batch)
    assert "pipeline count: a waiter starts the rest" in capfd.readouterr().err


def test_decisions_follow_dependencies_and_the_limit() -> None:
    ended = JobStatus(state=JobState.SUCCEEDED)
    waiting, running = JobStatus(state=JobState.PENDING), JobStatus(state=JobState.RUNNING)
    failed = JobStatus(state=JobState.FAILED, exit_code=3)
    members = (Member("a"), Member("b", ("a",)), Member("c", ("a", "b")), Member("d"), Member("e"))
    none = dict.fromkeys("abcde", waiting)
    assert decide(members, none, frozenset(), None).start == ("a", "d", "e")
    assert decide(members, none, frozenset(), 2).start == ("a", "d")
    assert decide(members, {**none, "a": running}, frozenset("a"), 2).start == ("d",)
    assert decide(members, {**none, "a": ended}, frozenset("a"), 2).start == ("b", "d")
    broken = decide(members, {**none, "a": failed, "d": running, "e": running}, frozenset("ade"), 2)
    assert broken.start == () and dict(broken.blocked) == {"b": "a", "c": "a"}
    orphan = JobStatus(state=JobState.STOPPED, cause=CauseKind.DEPENDENCY)
    assert exit_code_of(members, {**dict.fromkeys("acde", ended), "b": orphan}) == 75
    assert exit_code_of(members, {"a": ended, "b": orphan, "c": orphan, "d": failed, "e": ended}) == 3
    assert exit_code_of(members, dict.fromkeys("abcde", ended)) == 0
