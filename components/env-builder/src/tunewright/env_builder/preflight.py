"""Everything that speaks against an environment before anything is built: one list for `check` and the launcher."""

from __future__ import annotations

from pathlib import Path

from tunewright.contracts.errors import TunewrightError
from tunewright.contracts.experiment import EnvironmentSpec
from tunewright.contracts.preflight import Finding, Severity
from tunewright.env_builder.checks import find_project_problems
from tunewright.env_builder.images.names import has_digest
from tunewright.env_builder.images.options import ImageOptions
from tunewright.env_builder.images.targets import find_target, is_target


def find_problems(root: Path, home: Path, spec: EnvironmentSpec, asks_daemon: bool) -> list[Finding]:
    """What speaks against the environment that `spec` asks for. `asks_daemon`: also what only Docker's daemon knows."""
    if spec.kind == "pex":
        return [*find_project_problems(root, home), *lock_findings(root, "train-cpu")]
    assert spec.image is not None, "the experiment's types see to it"
    if not is_target(root, spec.image):
        return [] if has_digest(spec.image) else [_unknown_image(root, spec.image)]
    target = find_target(root, spec.image)
    findings = [*lock_findings(root, target.resolve), *checkout_findings(root)]
    if not asks_daemon:
        return [*find_project_problems(root, home, program=None), *findings]
    return [*findings, *_daemon_findings(root, home, target.name)]


def _unknown_image(root: Path, reference: str) -> Finding:
    try:
        find_target(root, reference)
    except TunewrightError as error:
        return Finding(code="image-unknown", path="environment.image", message=error.message, hint=error.hint)
    raise AssertionError  # never reached: is_target has looked


def lock_findings(root: Path, resolve: str) -> list[Finding]:
    """Whether locks and requirements agree, and whether a lock has what is known to be bad."""
    from tunewright.env_builder.locks.project import find_lock_problems

    return find_lock_problems(root)


def checkout_findings(root: Path) -> list[Finding]:
    """What about the checkout may surprise later: nothing of it stands in the way of an image's bytes."""
    from tunewright.env_builder.checkout import find_checkout_problems

    return find_checkout_problems(root)


def _daemon_findings(root: Path, home: Path, name: str) -> list[Finding]:
    from tunewright.env_builder.images.checks import find_image_problems
    from tunewright.env_builder.images.daemon import open_daemon

    try:
        with open_daemon() as daemon:
            return find_image_problems(root, home, daemon, ImageOptions.from_environment())
    except TunewrightError as error:
        return [
            Finding(code="docker-daemon-unreachable", severity=Severity.ERROR, message=error.message, hint=error.hint)
        ]
