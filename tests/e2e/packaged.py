"""The packaged programs, as a user gets them, on a project of its own: nothing is imported from the source tree."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What Pants calls the packages of `runtime_package_dependencies`, relative to the directory the tests run in.
LAUNCHER = Path("tunewright-launcher.pex").absolute()
DATASET_CACHER = Path("tunewright-dataset-cacher.pex").absolute()
ENV_BUILDER = Path("tunewright-env-builder.pex").absolute()
TRAINER = Path("tunewright-trainer.pex").absolute()
EXAMPLES = Path("examples").absolute()

SHORT = ("--set", "training.max_steps=8", "--set", "checkpoint.every_steps=2", "--set", "training.batch_size=4",
         "--set", "training.micro_batch_size=2", "--set", "dataset.max_length_tokens=256")  # fmt: skip
"""The quickstart in eight steps: enough to have checkpoints and a falling loss."""

# The trainer's PEX is there already, and Pants must not be started inside a test of Pants: a plugin gives it, by the
# hook that is there for this. `.ci/run` has the env-builder build it from a clone.
PROVIDER = """
from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.hookspecs import hookimpl

@hookimpl
def tunewright_provide_environment(environment):
    return EnvironmentRef(
        kind="pex", key="e2e", reference={reference!r}, command=({python!r}, {trainer!r}),
        variables={{"PEX_ROOT": {pex_root!r}, "OMP_NUM_THREADS": "1"}}, sha256="0" * 64, lock_digest="1" * 64,
    )
"""


def make_wheel(directory: Path, name: str, entry_point: str, module: str, source: str) -> Path:
    """A wheel as `pip wheel` would make it: a module, and metadata with an entry point in the group `tunewright`."""
    stem = f"{name.replace('-', '_')}-1.0"
    wheel = directory / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{module}.py", source)
        archive.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{stem}.dist-info/entry_points.txt", f"[tunewright]\n{entry_point} = {module}\n")
        archive.writestr(f"{stem}.dist-info/RECORD", "")
    return wheel


@dataclass(frozen=True)
class Project:
    """A git checkout with the examples, a home of its own, and the packaged programs."""

    root: Path
    home: Path
    plugins: tuple[Path, ...]

    @property
    def environment(self) -> dict[str, str]:
        """What a user's shell would have, plus the plugins' wheels."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PEX_", "PANTS_", "PYTEST_"))}
        kept.pop("PYTHONPATH", None)
        path = os.pathsep.join(str(wheel) for wheel in self.plugins)
        return {**kept, "TUNEWRIGHT_HOME": str(self.home), "PEX_EXTRA_SYS_PATH": path}

    def start(self, program: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a packaged program in the project: a file is a program by itself, a directory is Python's."""
        command = [str(program)] if program.is_file() else [sys.executable, str(program)]
        unpacked = {"PEX_ROOT": pex_root()} if program == TRAINER else {}
        return subprocess.Popen(
            [*command, *arguments],
            cwd=self.root, env=self.environment | unpacked, text=True, stdin=subprocess.DEVNULL, **options,
        )  # fmt: skip

    def call(self, program: Path, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a packaged program to its end and check its exit code."""
        process = self.start(program, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=600)
        assert process.returncode == expect, f"{arguments} ended {process.returncode}, not {expect}\n{out}\n{err}"
        assert "Traceback" not in err or expect == 0, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def launcher(self, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the launcher."""
        return self.call(LAUNCHER, *arguments, expect=expect)

    def launch(self, *arguments: str, expect: int = 0) -> dict[str, Any]:
        """`launcher launch ... --json`: its last document."""
        out = self.launcher("launch", *arguments, "--json", expect=expect).stdout
        document: dict[str, Any] = json.loads(out.splitlines()[-1])
        return document

    def python(self, script: str, *arguments: str) -> str:
        """Run `script` with the trainer's own interpreter and packages (transformers, peft)."""
        environment = {**self.environment, "PEX_INTERPRETER": "1", "PEX_ROOT": pex_root(), "HF_HUB_OFFLINE": "1"}
        environment.pop("PEX_EXTRA_SYS_PATH")
        result = subprocess.run(
            [sys.executable, str(TRAINER), "-c", script, *arguments],
            cwd=self.root, env=environment, text=True, capture_output=True, timeout=300, check=False,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        return result.stdout

    def run_dir(self, run: str) -> Path:
        """The directory of a run."""
        return self.home / "runs" / run

    def metrics(self, run: str) -> list[dict[str, Any]]:
        """The lines of a run's metrics."""
        path = self.run_dir(run) / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_step(self, run: str, step: int, timeout_seconds: float = 240) -> None:
        """Return once the run has logged `step`."""
        deadline = time.monotonic() + timeout_seconds
        while not any(line["step"] >= step for line in self.metrics(run)):
            assert time.monotonic() < deadline, f"run {run} did not reach step {step}"
            time.sleep(0.05)

    def wait_for_checkpoint(self, run: str, step: int, timeout_seconds: float = 240) -> None:
        """Return once the run has a whole checkpoint of `step`."""
        deadline = time.monotonic() + timeout_seconds
        while not (self.run_dir(run) / "checkpoints" / f"step-{step:06}").exists():
            assert time.monotonic() < deadline, f"run {run} has no checkpoint of step {step}"
            time.sleep(0.05)

    def resumed_from(self, run: str) -> int:
        """The checkpoint's step that the run's last attempt went on from; 0 where it began anew."""
        return int(json.loads((self.run_dir(run) / "training.json").read_text())["resumed_from_step"] or 0)

    def model_bytes(self, run: str) -> dict[str, bytes]:
        """Every safetensors file of the run's model."""
        return {path.name: path.read_bytes() for path in sorted((self.run_dir(run) / "model").glob("*.safetensors"))}


def pex_root() -> str:
    """Where the trainer's PEX is unpacked: kept between test runs, since torch alone takes half a minute."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(cache) / "tunewright" / "e2e-pex-root")


def make_project(directory: Path, reference: str = "the PEX of the tests") -> Project:
    """A committed checkout of the examples, with the plugin that provides the trainer's PEX.

    `reference`: where it says that this is. A cluster that asks what its nodes see wants the path; `verify` would find
    that the digest is another.
    """
    root = directory / "project"
    root.mkdir()
    shutil.copytree(EXAMPLES, root / "examples")
    (root / ".gitignore").write_text("/.tunewright/\n")
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
    for command in (["init", "--quiet"], ["add", "--all"], [*identity, "commit", "--quiet", "-m", "examples"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    source = PROVIDER.format(reference=reference, trainer=str(TRAINER), python=sys.executable, pex_root=pex_root())
    wheel = make_wheel(directory, "e2e-provider", "e2e-provider", "e2e_provider", source)
    return Project(root, directory / "home", (wheel,))
