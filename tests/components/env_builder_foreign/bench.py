"""A checkout with the real Pex, a home, a folder of wheels where pip looks, and the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers.forked_commands import forked_commands

from components.env_builder_foreign.wheels import Pinned, Wheel
from tunewright.env_builder.foreign import command

PROGRAM = command.__name__
_IMPORTED = ("packaging.markers", "rich.progress", "tunewright.env_builder.foreign.build", "yaml")
BOOTSTRAP = Path("build-support/bootstrap")


@dataclass(frozen=True)
class Bench:
    """Everything an import needs, without a network."""

    root: Path
    home: Path
    links: Path

    def pinned(self, *wheels: Wheel) -> list[Pinned]:
        """The wheels, written where pip finds them."""
        return [Pinned(wheel, wheel.write(self.links)) for wheel in wheels]

    def file(self, name: str, text: str) -> Path:
        """A file of the other project."""
        path = self.root.parent / "other" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def environment(self, **variables: str) -> dict[str, str]:
        """Variables with which pip looks nowhere but in the folder of wheels."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "TUNEWRIGHT_HOME": str(self.home),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.links),
            **variables,
        }

    def start(self, *arguments: str, **variables: str) -> subprocess.Popen[str]:
        """Start `env-builder build` in the checkout as users do: Python anew."""
        return subprocess.Popen(
            [sys.executable, "-m", PROGRAM, *arguments],
            cwd=self.root, env=self.environment(**variables), text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def call(self, *arguments: str, expect: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end in a process of its own, which is forked, checking its exit code."""
        commands, environment = forked_commands(_IMPORTED), self.environment(**variables)
        done = commands.run(PROGRAM, arguments, self.root, environment, timeout_seconds=55)
        assert done.returncode == expect, f"{arguments} ended {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def build(self, *arguments: str, **variables: str) -> dict[str, Any]:
        """The document of a build."""
        document: dict[str, Any] = json.loads(self.call("--json", *arguments, expect=0, **variables).stdout)
        return document

    def environments(self) -> list[str]:
        """What looks like an environment, whole or half."""
        directory = self.home / "environments"
        return sorted(path.name for path in directory.iterdir() if path.is_dir()) if directory.exists() else []


def make_bench(directory: Path) -> Bench:
    """A checkout with nothing in it: enough for what is refused, and for plans."""
    bench = Bench(directory / "project", directory / "home", directory / "links")
    (bench.root / ".git").mkdir(parents=True)
    bench.home.mkdir()
    bench.links.mkdir()
    return bench


def give_pex(bench: Bench, pex_program: Path, pex_root: Path) -> Bench:
    """The checkout has the pinned Pex, and the home a place where it is unpacked already."""
    shutil.copytree(BOOTSTRAP, bench.root / BOOTSTRAP)
    made = bench.root / ".pants.bootstrap.d" / pex_program.name
    made.parent.mkdir()
    made.symlink_to(pex_program)
    (bench.home / "pex_root").symlink_to(pex_root)
    return bench


def run_in(document: dict[str, Any], program: str) -> str:
    """What `program` prints in the environment."""
    done = subprocess.run(
        [*document["command"], "-c", program], env=document["variables"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
