"""Where a submitted job keeps its files, and the handle that says so."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tunewright.clusters.slurm.login import LoginNode
from tunewright.contracts.jobs import JobHandle
from tunewright.contracts.spec import canonical_json


@dataclass(frozen=True)
class JobPlace:
    """All that is needed to find a job again."""

    login: LoginNode
    """From where Slurm is asked, and from where the run's directory is seen."""

    run_dir: str
    """Absolute path of the run's directory. Empty for a handle that is none of ours."""

    directory: str
    """`<run_dir>/slurm/<key>`."""

    name: str
    """The job's name at Slurm: the run's, and a digest of run and key."""

    num_nodes: int
    """How many logs it has."""

    def handle(self, native_id: str) -> JobHandle:
        """The handle of the job that Slurm calls `native_id`."""
        data = {
            "ssh": list(self.login.ssh),
            "python": self.login.python,
            "run_dir": self.run_dir,
            "directory": self.directory,
            "name": self.name,
            "num_nodes": self.num_nodes,
        }
        return JobHandle(cluster="slurm", native_id=native_id, data=canonical_json(data))

    @classmethod
    def of(cls, handle: JobHandle) -> JobPlace:
        """What the handle says; a place of nothing where it says nothing."""
        try:
            data = json.loads(handle.data)
            login = LoginNode(tuple(data["ssh"]), data["python"])
            return cls(login, data["run_dir"], data["directory"], data["name"], data["num_nodes"])
        except (ValueError, KeyError, TypeError):
            return cls(LoginNode(), "", "", "", 1)
