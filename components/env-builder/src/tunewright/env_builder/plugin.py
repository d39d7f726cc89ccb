"""What the env-builder says to the launcher: the environment itself, and what speaks against it. Light to import."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.contracts.hookspecs import hookimpl, judges

if TYPE_CHECKING:
    from tunewright.contracts.environments import EnvironmentRef, EnvironmentRequest
    from tunewright.contracts.experiment import ResolvedExperiment
    from tunewright.contracts.preflight import Finding


@hookimpl(trylast=True)
def tunewright_provide_environment(environment: EnvironmentRequest) -> EnvironmentRef | None:
    """The environment of this code, PEX or image. Last in line: a plugin that gives one of its own is asked first."""
    from tunewright.env_builder.build import ensure_environment

    return ensure_environment(environment).reference


@hookimpl
@judges("environment")
def tunewright_preflight(experiment: ResolvedExperiment) -> Sequence[Finding]:
    """What speaks against building the environment here.

    It warns only: another plugin may answer first, or the environment may be there already. Building refuses by the
    same findings. What no builder could mend, an unknown image or another state of a submodule, refuses the run.
    """
    from tunewright.contracts.preflight import Severity
    from tunewright.env_builder.preflight import find_problems, is_there

    root, home, spec = Path(experiment.project_root), Path(experiment.home), experiment.spec.environment
    if is_there(root, home, spec):
        return []  # what is built was judged then
    found = find_problems(root, home, spec, asks_daemon=False)
    refusing = {"image-unknown", "submodule-not-at-commit"}
    return [
        one.model_copy(update={"severity": Severity.WARNING})
        if one.severity is Severity.ERROR and one.code not in refusing
        else one
        for one in found
    ]
