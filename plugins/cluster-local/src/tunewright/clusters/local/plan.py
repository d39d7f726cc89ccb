"""From a job to what the supervisor gets: one JSON file. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from tunewright.clusters.local.options import LocalOptions
from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.files import json_text
from tunewright.contracts.jobs import JobSpec, PlannedFile, SubmissionPlan

PLAN_FILE = "process.json"


def plan_process(job: JobSpec, options: LocalOptions) -> SubmissionPlan:
    """The plan of `job`. Secrets stand in it by name. Raises InvalidExperiment for what one machine cannot do."""
    if problems := list(_problems(job)):
        raise InvalidExperiment.from_problems("cluster `local`", problems)
    process = {
        "arguments": list(job.command),
        "variables": dict(sorted(job.variables.items())),
        "secrets": dict(sorted(job.secrets.items())),
        "run_dir": job.run_dir,
        "log": f"{job.run_dir}/logs/replica-0.log",
        "max_retries": job.max_retries,
        **options.to_document(),
    }
    return SubmissionPlan(cluster="local", run=job.run, files=(PlannedFile(name=PLAN_FILE, text=json_text(process)),))


def _problems(job: JobSpec) -> Iterator[Problem]:
    if job.resources.nodes != 1:
        yield Problem("cluster.nodes", f"cluster `local` runs one node, got {job.resources.nodes}")
    for number, argument in enumerate(job.command):
        if "\0" in argument:
            yield Problem(f"command[{number}]", f"an argument cannot hold a NUL character, got {argument!r}")
    for section, variables in (("cluster.environment", job.variables), ("cluster.secrets", job.secrets)):
        for name, value in variables.items():
            if not name or "=" in name or "\0" in name:
                yield Problem(section, f"no process can have a variable called {name!r}", "a name has no `=` in it")
            elif "\0" in value:
                yield Problem(f"{section}.{name}", "a value cannot hold a NUL character")
    for name in sorted(job.variables.keys() & job.secrets.keys()):
        yield Problem(f"cluster.secrets.{name}", "is a plain variable too", f"remove {name} from cluster.environment")
