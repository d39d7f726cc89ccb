"""The same of torchx and submitit, in their own interpreter: `peers.py DIRECTORY_OF_SLURM_PROGRAMS JOBS`.

torchx plans one job at a time (`dryrun`), and asks for one state at a time. submitit has no plan to look at: its
figure is that of submitting an array, pickles written, to an `sbatch` that answers at once; it asks for all states in
one call.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

# They live in an environment of their own and are no dependency of this repository: `import_module`.


def per_job(work: Callable[[], object], jobs: int) -> float:
    """CPU milliseconds a job."""
    started = time.process_time()
    work()
    return (time.process_time() - started) * 1000 / jobs


def calls(directory: Path) -> int:
    """Programs started since this was asked last."""
    counted = directory / "calls"
    number = len(counted.read_bytes()) if counted.exists() else 0
    counted.unlink(missing_ok=True)
    return number


def torchx(directory: Path, jobs: int) -> dict[str, float]:
    """Planned for Slurm, and asked about."""
    runner = import_module("torchx.runner").get_runner("benchmark")

    def plan() -> None:
        for number in range(jobs):
            arguments = ["-j", "1x1", "--script", "train.py", "--", "--seed", str(number)]
            runner.dryrun_component("dist.ddp", arguments, "slurm", cfg={"partition": "gpu"})

    calls(directory)
    milliseconds = per_job(plan, jobs)
    planning_calls = calls(directory)
    states = per_job(lambda: [runner.status(f"slurm://benchmark/{1000 + number}") for number in range(jobs)], jobs)
    return {
        "plan ms a job": milliseconds,
        "calls to plan": planning_calls,
        "state ms a job": states,
        "calls for states": calls(directory),
    }


def submitit(directory: Path, jobs: int) -> dict[str, float]:
    """Submitted as an array, and asked about."""
    library = import_module("submitit")
    with tempfile.TemporaryDirectory() as folder:
        executor = library.SlurmExecutor(folder=folder)
        executor.update_parameters(partition="gpu", time=5)
        submitted: list[Any] = []
        calls(directory)
        milliseconds = per_job(lambda: submitted.extend(executor.map_array(print, range(jobs))), jobs)
        submitting_calls = calls(directory)
        states = per_job(lambda: [job.state for job in submitted], jobs)
        return {
            "submit ms a job": milliseconds,
            "calls to submit": submitting_calls,
            "state ms a job": states,
            "calls for states": calls(directory),
        }


def main() -> None:
    """One JSON document on the last line."""
    directory, jobs = Path(sys.argv[1]), int(sys.argv[2])
    os.environ["PATH"] = f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
    os.chdir(directory)
    Path("train.py").touch()
    with contextlib.redirect_stdout(io.StringIO()):
        answer = {"torchx": torchx(directory, jobs), "submitit": submitit(directory, jobs)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
