"""What a thousand jobs cost a launcher: planning them, asking for their states; and what fifty plugins more cost.

    PYTHON -m benchmarks.launcher.many_jobs [--peer PYTHON_WITH_TORCHX_AND_SUBMITIT] [--jobs 1000] [--runs 5] [--json]

PYTHON has the packages of the resolve `tools` and the sources on its path. Rounds are interleaved and the figure quoted
is the median; a "call" is a program started, counted by programs of Slurm's names that answer at once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.launcher import slurm_programs

EXPERIMENT = Path("examples/quickstart.toml")
PLUGINS = 50

MOST_MILLISECONDS_A_JOB = 0.2
MOST_CALLS = 2
MOST_MILLISECONDS_OF_PLUGINS = 20.0

_PLUGIN = """
from tunewright.contracts.clusters import ClusterInfo
from tunewright.contracts.hookspecs import hookimpl

@hookimpl
def tunewright_register_clusters(register):
    register.add(ClusterInfo("more-{number}", "one of many", "more:Cluster", options_type="more:Options", api=1))
"""
_DISCOVER = """
import time
from tunewright.contracts.plugins import PluginHost
started = time.process_time()
host = PluginHost.discover()
host.clusters, host.variants
print((time.process_time() - started) * 1000, len(host.clusters), len([one for one in host.installed if one.error]))
"""


def planner(jobs: int, cluster: str, options: Sequence[str]) -> Callable[[], float]:
    """Checks the experiment once. Each call varies and plans a sweep of learning rates: CPU milliseconds a job."""
    from tunewright.contracts.plugins import PluginHost
    from tunewright.launcher.grid import parse_grid
    from tunewright.launcher.prepare import ExperimentArguments, check_experiments
    from tunewright.launcher.sweep import plan_points, vary

    arguments = ExperimentArguments(EXPERIMENT, cluster=cluster, assignments=tuple(options), allow_dirty=True)
    axes = parse_grid([f"training.learning_rate={','.join(f'{number}e-6' for number in range(1, jobs + 1))}"])
    (base,) = check_experiments(arguments, PluginHost.discover())

    def measure() -> float:
        started = time.process_time()
        planned = plan_points(vary(base, axes), "benchmark")
        spent = (time.process_time() - started) * 1000 / jobs
        assert len({one.submission.model_dump_json() for one in planned}) == jobs, "two jobs have one plan"
        return spent

    measure()  # the first builds the types
    return measure


def slurm_calls(jobs: int) -> dict[str, Any]:
    """Programs that ours starts to tell the states of `jobs` jobs, and the CPU milliseconds a job."""
    from tunewright.clusters.slurm.backend import SlurmCluster

    with tempfile.TemporaryDirectory() as directory:
        programs = slurm_programs.make(Path(directory), jobs)
        handles = slurm_programs.handles(jobs, Path(directory))
        os.environ["PATH"] = f"{programs.path}{os.pathsep}{os.environ['PATH']}"
        started = time.process_time()
        states = SlurmCluster().status(handles)
        spent = time.process_time() - started
        assert {status.state.value for status in states.values()} == {"STARTING"}, set(states.values())
        return {"calls": programs.calls(), "milliseconds_a_job": spent * 1000 / jobs}


def discovery_milliseconds(runs: int) -> dict[str, Any]:
    """CPU milliseconds of finding all plugins, without and with fifty more and a broken one."""
    with tempfile.TemporaryDirectory() as directory:
        site = Path(directory)
        for number in range(PLUGINS):
            _install(site, f"more-{number}", _PLUGIN.format(number=number))
        _install(site, "broken-one", "import no_such_module")
        found: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(runs + 1):  # the first compiles them
            for has_more, milliseconds in found.items():
                milliseconds.append(_discovery(site if has_more else None))
    without, with_more = (statistics.median(found[has_more][1:]) for has_more in (False, True))
    return {"without": without, "with": with_more, "added": with_more - without}


def _install(site: Path, name: str, source: str) -> None:
    module = name.replace("-", "_")
    (site / f"{module}.py").write_text(source)
    information = site / f"{module}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[tunewright]\n{name} = {module}\n")


def _discovery(site: Path | None) -> float:
    path = os.pathsep.join([str(site)] * (site is not None) + [one for one in sys.path if one])
    environment = {**os.environ, "PYTHONPATH": path}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", _DISCOVER]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    milliseconds, clusters, broken = done.stdout.split()
    assert (int(broken) == 1 and int(clusters) > PLUGINS) == (site is not None), done.stdout
    return float(milliseconds)


def of_peer(python: str, jobs: int) -> dict[str, Any]:
    """What `peers.py` measures in an interpreter that has the peers."""
    with tempfile.TemporaryDirectory() as directory:
        slurm_programs.make(Path(directory), jobs)
        script = str(Path(__file__).with_name("peers.py"))
        done = subprocess.run([python, script, directory, str(jobs)], capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def targets_of(report: Mapping[str, Any]) -> list[tuple[str, float, str, bool]]:
    """What was promised: what it is, the value, the limit, whether it is kept."""
    rows = [
        (f"planning, ms a job on `{cluster}`", milliseconds, MOST_MILLISECONDS_A_JOB)
        for cluster, milliseconds in report["planning_milliseconds_a_job"].items()
    ]
    rows.append((f"calls for {report['jobs']:,} states", report["slurm"]["calls"], MOST_CALLS))
    rows.append((f"{PLUGINS} plugins more, ms", report["discovery"]["added"], MOST_MILLISECONDS_OF_PLUGINS))
    return [(what, round(value, 3), f"<= {limit}", value <= limit) for what, value, limit in rows]


def interleaved(runs: int, measures: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """The median of each."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(runs):
        for name, measure in measures.items():
            found[name].append(measure())
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Measure, and print a table or one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter with torchx and submitit")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs; %(default)s")
    parser.add_argument("--runs", type=int, default=5, help="counted rounds; %(default)s")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args()
    clusters = {"local": (), "slurm": ("cluster.options.partition=gpu",)}
    planners = {name: planner(arguments.jobs, name, options) for name, options in clusters.items()}
    planning = interleaved(arguments.runs, planners)
    report = {
        "jobs": arguments.jobs,
        "planning_milliseconds_a_job": planning,
        "slurm": slurm_calls(arguments.jobs),
        "discovery": discovery_milliseconds(arguments.runs),
        "peers": of_peer(arguments.peer, arguments.jobs) if arguments.peer else {},
    }
    report["targets"] = targets_of(report)
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    for what, value, limit, is_kept in report["targets"]:
        print(f"{what:34} {value:>9} {limit:>9}  {'kept' if is_kept else 'MISSED'}")
    for name, figures in report["peers"].items():
        print(f"{name}: {', '.join(f'{what} {value:,.3f}' for what, value in figures.items())}")


if __name__ == "__main__":
    main()
