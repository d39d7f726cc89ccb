"""What the env-builder says to the launcher: the environment itself, and what speaks against it. Light to import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.contracts.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunewright.contracts.environments import EnvironmentRef, EnvironmentRequest
    from tunewright.contracts.experiment import ResolvedExperiment
    from tunewright.contracts.preflight import Finding


@hookimpl(trylast=True)
def tunewright_provide_environment(environment: EnvironmentRequest) -> EnvironmentRef | None:
    """The trainer's PEX of this code. Last in line: a plugin that gives an environment of its own is asked first."""
    if environment.spec.kind != "pex":
        return None
    from tunewright.env_builder.build import ensure_environment

    return ensure_environment(environment).reference


@hookimpl
def tunewright_preflight(experiment: ResolvedExperiment) -> Sequence[Finding]:
    """What speaks against building the environment here.

    Only an environment kind that nothing provides refuses the run. The rest warns: another plugin may answer first, or
    the environment may be there already. Building refuses by the same findings.
    """
    from tunewright.contracts.preflight import Severity
    from tunewright.env_builder.checks import find_kind_problems, find_project_problems

    project = find_project_problems(Path(experiment.project_root), Path(experiment.home))
    warnings = [finding.model_copy(update={"severity": Severity.WARNING}) for finding in project]
    return [*find_kind_problems(experiment.spec.environment), *warnings]
