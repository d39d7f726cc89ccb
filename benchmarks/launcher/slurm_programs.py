"""Programs by the names of Slurm's that answer at once and count how often they are started. Jobs: 1000, 1001, ..."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.jobs import JobHandle

FIRST = 1000

_COUNTED = '#!/bin/sh\nprintf x >> "{calls}"\n'
_ACCOUNTS = """case "$*" in
  *JobID,State,NodeList*) cat "{array}" ;;
  *) for last in "$@"; do :; done; printf 'JobID|JobName|State\\n%s|train-0|RUNNING\\n' "$last" ;;
esac
"""


@dataclass(frozen=True)
class Programs:
    """Where they are."""

    directory: Path

    @property
    def path(self) -> str:
        """What goes to the front of PATH."""
        return str(self.directory / "bin")

    def calls(self) -> int:
        """How many were started so far."""
        counted = self.directory / "calls"
        return len(counted.read_bytes()) if counted.exists() else 0


def name_of(number: int) -> str:
    """The name of a job at Slurm."""
    return f"benchmark-{number}"


def make(directory: Path, jobs: int) -> Programs:
    """Write them below `directory`: all jobs run, on one node."""
    numbers = range(FIRST, FIRST + jobs)
    queue = "".join(f"{number}|RUNNING|None|0|2026-11-21T10:00:00|N/A|node1|{name_of(number)}\n" for number in numbers)
    array = "JobID|State|NodeList\n" + "".join(f"{FIRST}_{index}|RUNNING|node1\n" for index in range(jobs))
    (directory / "queue").write_text(queue)
    (directory / "array").write_text(array)
    bodies = {
        "squeue": f'cat "{directory / "queue"}"\n',
        "sacct": _ACCOUNTS.format(array=directory / "array"),
        "sbatch": f"echo Submitted batch job {FIRST}\n",
        "sinfo": "echo '{}'\n",
        "srun": "",
        "scancel": "",
    }
    (directory / "bin").mkdir()
    for name, body in bodies.items():
        program = directory / "bin" / name
        program.write_text(_COUNTED.format(calls=directory / "calls") + body)
        program.chmod(0o755)
    return Programs(directory)


def handles(jobs: int, directory: Path) -> Sequence[JobHandle]:
    """The handles of as many jobs of cluster `slurm`, each with a directory that has nothing in it yet."""
    from tunewright.clusters.slurm.handles import JobPlace
    from tunewright.clusters.slurm.login import LoginNode

    found = []
    for number in range(FIRST, FIRST + jobs):
        run = directory / "runs" / str(number)
        run.mkdir(parents=True)
        found.append(JobPlace(LoginNode(), str(run), str(run / "slurm"), name_of(number), 1).handle(str(number)))
    return found
