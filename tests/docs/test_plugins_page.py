"""docs/plugins.md: every hook with its arguments and a working example; the small cluster in it runs jobs."""

from __future__ import annotations

import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from docs.pages import PLUGINS_PAGE, Code, code_of
from tunewright.contracts import hookspecs
from tunewright.contracts.plugins import PluginHost

BLOCKS = code_of(PLUGINS_PAGE)
HOOKS = {name: value for name, value in vars(hookspecs).items() if name.startswith("tunewright_")}
EXAMPLES = [code for code in BLOCKS if "@hookimpl" in code.text]


def file_named(name: str) -> str:
    (found,) = [code.text for code in BLOCKS if code.file == name]
    return found


def test_every_hook_is_described_with_exactly_its_arguments_and_no_other() -> None:
    headings = re.findall(r"^### `(\w+)\(([^)]*)\)`$", PLUGINS_PAGE.read_text(), re.MULTILINE)
    described = {name: arguments.split(", ") for name, arguments in headings}
    assert described == {name: list(inspect.signature(hook).parameters) for name, hook in HOOKS.items()}


def test_the_hooks_are_described_in_the_order_of_the_specification() -> None:
    assert re.findall(r"^### `(\w+)\(", PLUGINS_PAGE.read_text(), re.MULTILINE) == list(HOOKS)


@pytest.mark.parametrize("code", EXAMPLES, ids=str)
def test_an_example_is_a_working_plugin(code: Code) -> None:
    module = types.ModuleType(f"example_at_line_{code.line}")
    exec(compile(code.text, str(code), "exec"), vars(module))
    host = PluginHost()
    host.register(module, "example")
    _ = host.dataset_formats, host.chat_templates
    (plugin,) = host.installed
    assert plugin.error == ""
    assert plugin.hooks != ()


def test_there_is_an_example_of_every_hook() -> None:
    assert [name for name in HOOKS if not any(f"def {name}(" in code.text for code in EXAMPLES)] == []


def test_what_the_page_names_from_the_contracts_is_there() -> None:
    import importlib

    for name in set(re.findall(r"`(tunewright\.contracts[\w.]*)`", PLUGINS_PAGE.read_text())):
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), name


# ---- the small cluster, installed as a distribution, used by processes of their own

USE = """
import json, sys
from pathlib import Path
from tunewright.contracts.jobs import JobHandle, JobSpec
from tunewright.contracts.plugins import PluginHost, load_entry
from tunewright.contracts.spec import Spec
host = PluginHost.discover()
info = host.clusters.get("nohup", "cluster.name")
cluster = load_entry(info.entry, host.clusters.owner_of("nohup"))()
def job(argv, run_dir, variables):
    return JobSpec(run="first", run_dir=run_dir, command=argv, variables=variables)
def submit(argv, run_dir, key="one", variables={}):
    return cluster.submit(cluster.plan(job(argv, run_dir, variables), Spec()), key).to_document()
def status(handle):
    (state,) = cluster.status([JobHandle(**handle)]).values()
    return state.to_document()
def logs(handle, **options):
    return b"".join(cluster.logs(JobHandle(**handle), **options)).hex()
def stop(handle):
    cluster.stop(JobHandle(**handle))
name, arguments, options = json.loads(sys.argv[1])
answer = eval(name)(*arguments, **options)
print(json.dumps(answer))
"""

Ask = Callable[..., Any]


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Calls a function of USE in a new process, which has the cluster installed as pip would install it."""
    site = tmp_path / "site"
    project = tomllib.loads(file_named("pyproject.toml"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "".join(f"{name} = {value}\n" for name, value in project["entry-points"]["tunewright"].items())
    (info / "entry_points.txt").write_text(f"[tunewright]\n{points}")
    (site / "nohup_cluster.py").write_text(file_named("nohup_cluster.py"))
    path = os.pathsep.join([str(site), *sys.path])

    def call(name: str, *arguments: Any, **options: Any) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", USE, json.dumps([name, arguments, options])],
            env={**os.environ, "PYTHONPATH": path, "FROM_THE_CLIENT": "1"},
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def wait(ask: Ask, handle: Any) -> dict[str, Any]:
    deadline = time.monotonic() + 50
    while (status := ask("status", handle))["state"] in ("RUNNING", "STARTING"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    found: dict[str, Any] = status
    return found


def python(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", script, *arguments]


def test_the_small_cluster_runs_a_job_and_tells_how_it_ended(ask: Ask, tmp_path: Path) -> None:
    script = (
        "import os, sys; print(sys.argv[1:], os.environ['MINE'], 'FROM_THE_CLIENT' in os.environ, end=''); sys.exit(42)"
    )
    arguments = ["two words", "$HOME", "a'b\"c", "", "ü"]
    handle = ask("submit", python(script, *arguments), str(tmp_path / "run"), variables={"MINE": "kept"})
    status = wait(ask, handle)
    assert (status["state"], status["exit_code"], status["cause"]) == ("FAILED", 42, "exit")
    assert bytes.fromhex(ask("logs", handle)).decode() == f"{arguments} kept False"


def test_its_job_outlives_who_submitted_it_and_is_submitted_once_a_key(ask: Ask, tmp_path: Path) -> None:
    go, done = tmp_path / "go", tmp_path / "done"
    script = (
        "import pathlib, sys, time\nprint('started', flush=True)\nwhile not pathlib.Path(sys.argv[1]).exists():\n"
        "    time.sleep(0.02)\nopen(sys.argv[2], 'a').write('x')\nprint('ended')"
    )
    submission = ("submit", python(script, str(go), str(done)), str(tmp_path / "run"))
    handle = ask(*submission)
    assert ask(*submission) == handle
    assert ask("status", handle)["state"] == "RUNNING"
    go.touch()
    assert bytes.fromhex(ask("logs", handle, follow=True)) == b"started\nended\n"
    assert wait(ask, handle)["state"] == "SUCCEEDED"
    assert ask(*submission) == handle
    assert done.read_text() == "x"
    assert bytes.fromhex(ask("logs", handle, since=8)) == b"ended\n"


def test_it_stops_the_whole_process_tree_and_stopping_again_is_no_error(ask: Ask, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    child = "import time; time.sleep(60)"
    script = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "open(sys.argv[1], 'w').write(f'{os.getpid()} {child.pid}')\nchild.wait()"
    )
    handle = ask("submit", python(script, str(pids)), str(tmp_path / "run"))
    deadline = time.monotonic() + 50
    while not pids.exists() or len(pids.read_text().split()) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    ask("stop", handle)
    assert wait(ask, handle)["state"] == "STOPPED"
    ask("stop", handle)
    for pid in pids.read_text().split():
        assert not is_alive(int(pid))


def is_alive(pid: int) -> bool:
    try:
        # A process whose parent has not asked for it yet is dead all the same.
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_knows_signals_and_jobs_that_never_were(ask: Ask, tmp_path: Path) -> None:
    handle = ask("submit", python("import os; os.kill(os.getpid(), 9)"), str(tmp_path / "run"))
    status = wait(ask, handle)
    assert (status["state"], status["signal"]) == ("FAILED", signal.SIGKILL)
    assert ask("status", {**handle, "data": str(tmp_path / "never")})["state"] == "NOT_FOUND"
    assert ask("logs", {**handle, "data": str(tmp_path / "never")}, follow=True) == ""
