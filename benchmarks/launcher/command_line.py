"""How long the packaged launcher takes to answer, in CPU seconds of the whole process, beside a peer and beside Python.

    ./pants package components/launcher:launcher
    python3.11 benchmarks/launcher/command_line.py [--peer PYTHON_WITH_TORCHX] [--runs 15]

One run interleaves everything it compares, so that a machine that slows down slows all of it. The figure to quote is
the median, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

LAUNCHER = Path("dist/tunewright-launcher.pex").absolute()


def cpu_seconds(command: Sequence[str]) -> float:
    """User and system time of `command` and its children, run to its end. Raises CalledProcessError if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def commands(peer: str | None) -> dict[str, list[str]]:
    """What is compared, by name."""
    compared = {
        "python -I -S -c pass": [sys.executable, "-I", "-S", "-c", "pass"],
        "launcher --help": [str(LAUNCHER), "--help"],
        "launcher plan": [str(LAUNCHER), "plan", "examples/quickstart.toml", "--allow-dirty"],
    }
    if peer:
        script = "from torchx.cli.main import main; main()"
        compared["torchx --help"] = [peer, "-c", script, "--help"]
        dry_run = ["run", "-s", "local_cwd", "--dryrun", "dist.ddp", "-j", "1x1", "--script", "train.py"]
        compared["torchx run --dryrun"] = [peer, "-c", script, *dry_run]
    return compared


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="a Python with torchx installed")
    parser.add_argument("--runs", type=int, default=15, help="counted runs of each command, after one warm-up")
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    compared = commands(arguments.peer)
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    for run in range(arguments.runs + 1):
        for name, command in compared.items():
            spent = cpu_seconds(command)
            if run:
                seconds[name].append(spent)
    floor = statistics.median(seconds["python -I -S -c pass"])
    print(f"{'command':24} {'min':>7} {'median':>7} {'max':>7}   CPU s; ratio to the first")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:24} {min(values):7.3f} {median:7.3f} {max(values):7.3f}   {median / floor:5.1f}")


if __name__ == "__main__":
    main()
