"""From a job to what the supervisor gets: one JSON file. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from tunewright.clusters.local.options import LocalOptions
from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.files import json_text
from tunewright.contracts.job_problems import argument_problems, variable_problems
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
    yield from argument_problems(job)
    yield from variable_problems(job, "process", only_plain_names=False)
