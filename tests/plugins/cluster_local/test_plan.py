"""The plan of a local job: what the supervisor gets, and what one machine cannot do."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tunewright.clusters.local.options import LocalOptions
from tunewright.clusters.local.plan import PLAN_FILE, plan_process
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.experiment_file import parse_spec
from tunewright.contracts.jobs import JobSpec, Resources


def job(**fields: Any) -> JobSpec:
    return JobSpec(**{"run": "r", "run_dir": "/home/runs/r", "command": ("python", "-c", "pass"), **fields})


def test_the_plan_is_one_file_with_everything_the_supervisor_needs() -> None:
    plan = plan_process(job(variables={"B": "2", "A": "1"}, secrets={"T": "name"}, max_retries=2), LocalOptions())
    assert [file.name for file in plan.files] == [PLAN_FILE]
    assert json.loads(plan.text_of(PLAN_FILE)) == {
        "arguments": ["python", "-c", "pass"],
        "variables": {"A": "1", "B": "2"},
        "secrets": {"T": "name"},
        "run_dir": "/home/runs/r",
        "log": "/home/runs/r/logs/replica-0.log",
        "max_retries": 2,
        "memory_gib": None,
        "time_limit_seconds": None,
        "stop_grace_seconds": 10.0,
    }


def test_the_order_variables_were_written_in_does_not_change_the_plan() -> None:
    one, other = job(variables={"A": "1", "B": "2"}), job(variables={"B": "2", "A": "1"})
    assert plan_process(one, LocalOptions()) == plan_process(other, LocalOptions())


def test_every_problem_of_a_job_is_named_at_once() -> None:
    broken = job(
        resources=Resources(nodes=3),
        command=("x", "a\0b"),
        variables={"A=B": "1", "C": "\0", "D": ""},
        secrets={"D": "s"},
    )
    with pytest.raises(InvalidExperiment) as caught:
        plan_process(broken, LocalOptions())
    assert [problem.path for problem in caught.value.problems] == [
        "cluster.nodes", "command[1]", "cluster.environment", "cluster.environment.C", "cluster.secrets.D",
    ]  # fmt: skip
    assert "got 3" in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"memory_gib": 0}, {"memory_gib": "lots"}, {"time_limit_seconds": -1}, {"memory": 1}]
)
def test_a_bad_option_is_named_as_the_user_wrote_it(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidExperiment) as caught:
        parse_spec(LocalOptions, options, "experiment.toml", "cluster.options")
    assert f"cluster.options.{next(iter(options))}" in str(caught.value)
