"""Beside open-instruct's launcher: for its command lines ours sends an equal experiment, without its faults."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from plugins.cluster_beaker.beaker_jobs import job, options, plan, spec_of, submission_of
from plugins.cluster_beaker.mason_cases import BASE, CASES, MASONS_DEFAULTS, MasonCase
from tunewright.clusters.beaker.options import BeakerOptions
from tunewright.clusters.beaker.start_program import decode
from tunewright.contracts.errors import InvalidExperiment
from tunewright.contracts.jobs import JobSpec

SENT = [case for case in CASES if not case.refusal]
REFUSED = [case for case in CASES if case.refusal]


def by_name(case: MasonCase) -> str:
    return case.name


def job_of(case: MasonCase) -> JobSpec:
    return job(*case.command, processes=8, **case.job)


def options_of(case: MasonCase) -> BeakerOptions:
    return options(**{"gpus": None, **case.options})


def read(task: dict[str, Any]) -> dict[str, Any]:
    """A planned task as the table has it: variables and secrets as mappings, decoded; sizes and names left out."""
    told = {name: value for name, value in task.items() if name not in ("command", "arguments", "envVars", "name")}
    variables = {one["name"]: decode(one["value"]).decode() for one in task["envVars"] if "value" in one}
    secrets = {one["name"]: one["secret"] for one in task["envVars"] if "secret" in one}
    resources = {name: value for name, value in task["resources"].items() if name != "sharedMemory"}
    return {**told, "variables": variables, "secrets": secrets, "resources": resources}


def test_the_table_has_a_dozen_command_lines_and_more() -> None:
    assert len(CASES) >= 12
    assert len({case.mason for case in CASES}) == len(CASES)
    for case in CASES:
        shlex.split(case.mason)  # a line that a shell would take


@pytest.mark.parametrize("case", SENT, ids=by_name)
def test_ours_sends_what_the_table_says(case: MasonCase) -> None:
    spec = spec_of(job_of(case), options_of(case))
    (task,) = spec["tasks"]
    assert read(task) == {**BASE, **case.ours}
    assert {name: spec[name] for name in ("budget", "retry") if name in spec} == case.experiment
    assert submission_of(job_of(case), options_of(case))["workspace"] == case.options.get("workspace")


@pytest.mark.parametrize("case", SENT, ids=by_name)
def test_it_is_masons_but_for_its_fault(case: MasonCase) -> None:
    masons, ours = {**BASE, **case.masons}, {**BASE, **case.ours}
    different = {name for name in masons.keys() | ours.keys() if masons.get(name) != ours.get(name)}
    assert different == set(case.differs)
    assert not MASONS_DEFAULTS.keys() & ours["variables"].keys()


@pytest.mark.parametrize("case", SENT, ids=by_name)
def test_the_command_arrives_as_it_was_meant(case: MasonCase) -> None:
    (task,) = spec_of(job_of(case), options_of(case))["tasks"]
    arrived = tuple(decode(argument).decode() for argument in task["arguments"][1:])
    assert arrived == case.command
    assert "bash" not in " ".join(task["command"][:3])


def test_masons_quoting_would_have_changed_the_command() -> None:
    (case,) = (one for one in CASES if one.name == "quotes in arguments and variables")
    with pytest.raises(ValueError, match="No closing quotation"):
        shlex.split(case.masons_shell_text)


@pytest.mark.parametrize("case", REFUSED, ids=by_name)
def test_what_mason_sends_to_its_ruin_is_refused_in_words(case: MasonCase) -> None:
    with pytest.raises(InvalidExperiment) as caught:
        plan(job_of(case), options_of(case))
    assert case.refusal in str(caught.value)
