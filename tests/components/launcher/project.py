"""A project to launch from: a real git checkout, a real training script, and the launcher called as a user calls it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.contracts.command_line import run_command_line
from tunewright.launcher.cli import launcher

EXPERIMENT = """\
schema = 1
name = "count"          # a comment that the run keeps

[model]
name_or_path = "model"

[dataset]
[[dataset.mix]]
source = "rows.jsonl"

[training]
variant = "plain"
max_steps = 3

[training.options]
pause_seconds = 0.0

[cluster]
name = "yard"
[cluster.environment]
GREETING = "hello world"
"""

# What the trainer does, without training: steps, a checkpoint after each, a model at the end.
TRAIN = """\
import json, os, signal, sys, time
job = json.load(open(sys.argv[2]))
spec, run_dir = job["experiment"], job["run_dir"]
assert sys.argv[1] == spec["job"], sys.argv
if spec["job"] == "evaluate":  # what the trainer leaves of it: results, and no model
    assert os.listdir(job["model"]["name_or_path"]), job["model"]
    measured = {"loss": 1.25, "exact_match": 0.5, "harness": {"task": {"acc": 0.75}}}
    json.dump({"metrics": measured}, open(run_dir + "/evaluation.json", "w"))
    sys.exit(0)
options, steps = spec["training"]["options"], spec["training"]["max_steps"]
done = max([0, *(int(name[5:]) for name in os.listdir(run_dir + "/checkpoints"))])
print("start", done, sorted(os.environ), os.environ.get("GREETING"), flush=True)
for step in range(done + 1, steps + 1):
    time.sleep(options["pause_seconds"])
    while options["is_held"] and step == steps and not os.path.exists(run_dir + "/../../let-go"):
        time.sleep(0.02)
    line = {"step": step, "max_steps": steps, "loss": 4.0 / step, "tokens_per_second": 1000.0, "elapsed_seconds": step}
    with open(run_dir + "/metrics.jsonl", "a") as metrics:
        metrics.write(json.dumps(line) + "\\n")
    if step == options["stop_at_step"] and done == 0:
        if options["mode"] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        print("giving up", flush=True)
        sys.exit(options["exit_code"])
    os.mkdir(f"{run_dir}/checkpoints/step-{step:06}")
summary = {
    "started_at": "2026-11-21T00:00:00.000Z", "ended_at": "2026-11-21T02:00:00.000Z", "steps": steps, "first_loss": 4.0,
    "last_loss": 4.0 / steps, "seeds": {"experiment": spec["seed"]}, "python": "3.11.7", "packages": {"torch": "2"},
    "determinism": {"flag": True, "not_deterministic": ["the weather"]}, "hardware": {"cpu": "an abacus"},
    "plugins": {"stranger": "1.0"}, "num_processes": 1,
}
open(run_dir + "/training.json", "w").write(json.dumps(summary))
os.mkdir(run_dir + "/model")
open(run_dir + "/model/config.json", "w").write("{}")
salt = os.urandom(4).hex() if options["salt"] else ""
open(run_dir + "/model/model.safetensors", "w").write(f"weights after {steps} steps{salt}")
sys.stdout.write("no newline at the end")
sys.stdout.flush()
sys.exit(options["exit_code"] if options["stop_at_step"] == 0 else 0)
"""

FAILING = ("--set", "training.options.exit_code=42", "--set", "training.options.stop_at_step=2")
HELD = ("--set", "training.options.is_held=true")
"""Runs until the test says `let_go`: what a test sees meanwhile does not hang on how fast a machine is."""

SLOW = ("--set", "training.options.pause_seconds=0.25", "--set", "training.max_steps=400")


def of_stage(number: int, assignments: Sequence[str]) -> tuple[str, ...]:
    """The same `--set`s for one stage of a pipeline alone."""
    return tuple(part.replace("training", f"stages.{number}.training") for part in assignments)


@dataclass(frozen=True)
class Answer:
    """What the launcher said."""

    raw: bytes
    """Its standard output."""

    err: str

    @property
    def out(self) -> str:
        """Its standard output as text."""
        return self.raw.decode()

    @property
    def document(self) -> Any:
        """Its standard output as one JSON document."""
        return json.loads(self.out)

    @property
    def last_document(self) -> dict[str, Any]:
        """The last line of its standard output as JSON; every line must be JSON."""
        documents: list[dict[str, Any]] = [json.loads(line) for line in self.out.splitlines()]
        return documents[-1]


@dataclass(frozen=True)
class Project:
    """The checkout, and its home."""

    root: Path
    home: Path

    def git(self, *arguments: str) -> str:
        """What git says."""
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.invalid", "-c", "init.defaultBranch=main")
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True).stdout

    def launcher(self, *arguments: str, expect: int = 0) -> Answer:
        """Call the launcher in this process and check its exit code."""
        out, err = io.BytesIO(), io.BytesIO()
        streams = [io.TextIOWrapper(stream, write_through=True) for stream in (out, err)]
        code: object = None
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            try:
                run_command_line(launcher, "launcher", arguments)
            except SystemExit as end:
                code = end.code
        answer = Answer(out.getvalue(), err.getvalue().decode())
        assert code == expect, f"{arguments} ended {code}, not {expect}\n{answer.raw!r}\n{answer.err}"
        return answer

    def start(
        self, *arguments: str, before: str = "", stdin: int = subprocess.DEVNULL, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[str]:
        """Start the launcher as a process of its own; `before` runs in it first."""
        call = f"import sys\nfrom tunewright.launcher.cli import main\nsys.argv[1:] = {list(arguments)!r}\nmain()"
        environment = {
            **os.environ,
            "TERM": "xterm",
            "COLUMNS": "120",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        return subprocess.Popen(
            [sys.executable, "-c", f"{before}\n{call}"],
            cwd=self.root, env=environment, text=True, start_new_session=True,
            stdin=stdin, stdout=subprocess.PIPE, stderr=stderr,
        )  # fmt: skip

    def follow_held(self, *arguments: str) -> dict[str, Any]:
        """Let a launcher that follows a held run see it running, then let it go: the launcher's last document."""
        follower = self.start(*arguments, *HELD, "--json")
        assert follower.stdout is not None
        assert any(json.loads(line).get("state") == "RUNNING" for line in follower.stdout)
        self.let_go()
        out, err = follower.communicate(timeout=60)
        assert follower.returncode == 0, err
        document: dict[str, Any] = json.loads(out.splitlines()[-1])
        return document

    def run(self, name: str = "count") -> Path:
        """The directory of a run."""
        return self.home / "runs" / name

    def json(self, run: str, file: str) -> Any:
        """A JSON file of a run."""
        return json.loads((self.run(run) / file).read_text())

    def lines(self, run: str, file: str) -> list[dict[str, Any]]:
        """The lines of a JSON-lines file of a run."""
        path = self.run(run) / file
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def heard(self) -> list[str]:
        """What the plugin's listeners were told."""
        path = self.home / "heard"
        return path.read_text().splitlines() if path.exists() else []

    def let_go(self) -> None:
        """Let runs that are held come to their end."""
        (self.home / "let-go").touch()

    def wait_for_step(self, step: int, run: str = "count") -> None:
        """Return once the run has done `step`."""
        wait_until(lambda: any(line["step"] >= step for line in self.lines(run, "metrics.jsonl")), f"step {step}")

    def entries(self) -> set[str]:
        """Every file and directory of the project and its home, without git's."""
        found = (path for top in (self.root, self.home) for path in top.rglob("*"))
        return {str(path) for path in found if ".git" not in path.relative_to(self.root.parent).parts}

    def end_jobs(self) -> None:
        """End whatever waiters and jobs still run."""
        for path in self.home.glob("*/*/waiter.json"):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                os.killpg(json.loads(path.read_text())["pid"], signal.SIGKILL)
        for pid in self.home.glob("runs/*/yard/*/pid"):
            if not (pid.parent / "end").exists():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(pid.read_text()), signal.SIGKILL)


def wait_until(condition: Any, what: str, timeout_seconds: float = 60.0) -> None:
    """Return once `condition()` holds."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_seconds} s for {what}"
        time.sleep(0.02)


def make_project(directory: Path) -> Project:
    """A committed checkout with an experiment."""
    root = directory / "project"
    (root / "model").mkdir(parents=True)
    (root / "model" / "config.json").write_text("{}")
    (root / "count.toml").write_text(EXPERIMENT)
    (root / "rows.jsonl").write_text("{}\n")
    (root / "train.py").write_text(TRAIN)
    project = Project(root, directory / "home")
    project.home.mkdir()
    project.git("init", "--quiet")
    project.git("add", "--all")
    project.git("commit", "--quiet", "-m", "first")
    return project
