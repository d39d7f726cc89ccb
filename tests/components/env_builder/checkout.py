"""A small checkout, committed with real git, whose `./pants` stands in for the minutes that the real one takes.

The script makes what `pants package components/trainer:trainer` makes, a directory that Python runs, out of the sources
that lie in the checkout. Everything else is real: git, locks, processes, signals, the interpreter that starts it.
`.ci/run` builds the trainer with Pants itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.contracts.environments import CodeOrigin, EnvironmentRequest
from tunewright.contracts.experiment import EnvironmentSpec
from tunewright.env_builder import cli
from tunewright.env_builder.commands import archives, build, check, clean, compose, listing, push, verify

PANTS = """#!{python}
import json, os, pathlib, shutil, sys, time
seen = pathlib.Path(os.environ["PANTS_SEEN"])
with open(seen / "calls", "a") as file:
    file.write(json.dumps({{"arguments": sys.argv[1:], "environment": dict(os.environ), "cwd": os.getcwd()}}) + "\\n")
print("stand-in for Pants: resolving", flush=True)
distdir = next(one.split("=", 1)[1] for one in sys.argv if one.startswith("--pants-distdir="))
pex = pathlib.Path(distdir) / "tunewright-trainer.pex"
pex.mkdir(parents=True)
(pex / "half.py").write_text("half")
number = len((seen / "calls").read_text().splitlines())
while (seen / f"hold-{{number}}").exists():
    time.sleep(0.01)
if pathlib.Path("components/trainer/broken").exists():
    print("\\n".join(f"error line {{number}}" for number in range(30)), flush=True)
    sys.exit(3)
shutil.copytree("components/trainer/src", pex, dirs_exist_ok=True)
"""

# The program imports its commands by their names only; imported here, Pants gives them to the tests.
PROGRAM = (cli, archives, build, check, clean, compose, listing, push, verify)[0].__name__

MAIN = """import os, sys
assert sys.argv[1:] == ["--version"], sys.argv
os.makedirs(os.environ["PEX_ROOT"], exist_ok=True)
print("tunewright-trainer 0.1.0", "PEX_ROOT", os.environ["PEX_ROOT"])
"""


@dataclass(frozen=True)
class Checkout:
    """A checkout, a home beside it, and what its `./pants` saw."""

    root: Path
    home: Path
    seen: Path

    def git(self, *arguments: str) -> str:
        """Run git in the checkout."""
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *arguments], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def write(self, name: str, text: str) -> None:
        """Write a file of the checkout."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def commit(self, name: str, text: str) -> None:
        """Write a file and commit it."""
        self.write(name, text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "-m", name)

    def request(self, dirty: bool = False, plan_only: bool = False, commit: str = "") -> EnvironmentRequest:
        """What the launcher would ask for."""
        code = CodeOrigin(commit=commit or self.git("rev-parse", "HEAD"), dirty=dirty)
        return EnvironmentRequest(
            spec=EnvironmentSpec(), project_root=str(self.root), home=str(self.home), code=code, plan_only=plan_only
        )

    def calls(self) -> list[dict[str, Any]]:
        """Each call of `./pants`: its arguments, environment and working directory."""
        path = self.seen / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def hold(self) -> None:
        """Make the first build wait half way until `release`."""
        (self.seen / "hold-1").touch()

    def release(self) -> None:
        """Let it go on."""
        (self.seen / "hold-1").unlink()

    def wait_for_calls(self, count: int) -> None:
        """Return once `./pants` was called `count` times and is half way."""
        deadline = time.monotonic() + 50
        while len(self.calls()) < count or not list(self.root.glob("dist/.environment-*/*/half.py")):
            assert time.monotonic() < deadline, "the build did not start"
            time.sleep(0.02)

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start the env-builder's command line in the checkout."""
        environment = {
            **os.environ,
            # Absolute: below Pants the path has relative entries, and this process starts in the checkout.
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TUNEWRIGHT_HOME": str(self.home),
            "PANTS_SEEN": str(self.seen),
            **variables,
        }
        return subprocess.Popen(
            [sys.executable, "-m", PROGRAM, *arguments],
            cwd=self.root, env=environment, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def call(self, *arguments: str, expect: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the env-builder's command line to its end, checking its exit code."""
        process = self.start(*arguments, **variables)
        out, err = process.communicate(timeout=50)
        assert process.returncode == expect, f"{arguments} ended {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def make_checkout(directory: Path) -> Checkout:
    """A committed checkout with everything the env-builder looks for."""
    checkout = Checkout(directory / "project", directory / "home", directory / "seen")
    checkout.root.mkdir()
    checkout.seen.mkdir()
    checkout.git("init", "--quiet", "--initial-branch=main")
    checkout.write(".gitignore", "/dist/\n/.tunewright/\n")
    checkout.write(
        "pants.toml", '[GLOBAL]\npants_version = "2.17.1"\n[python.resolves]\ntrain-cpu = "3rdparty/a.lock"\n'
    )
    checkout.write("3rdparty/a.lock", "torch==1 --hash=sha256:0\n")
    checkout.write("pants", PANTS.format(python=sys.executable))
    (checkout.root / "pants").chmod(0o755)
    checkout.write("components/trainer/src/trainer.py", "print('train')\n")
    checkout.write("components/trainer/README.md", "# Trainer\n")
    checkout.commit("components/trainer/src/__main__.py", MAIN)
    return checkout
