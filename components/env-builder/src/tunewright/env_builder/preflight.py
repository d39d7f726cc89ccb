"""Everything that speaks against an environment before anything is built: one list for `check` and the launcher."""

from __future__ import annotations

from pathlib import Path

from tunewright.contracts.errors import TunewrightError
from tunewright.contracts.experiment import EnvironmentSpec
from tunewright.contracts.preflight import Finding, Severity
from tunewright.env_builder.checks import find_project_problems
from tunewright.env_builder.images.names import has_digest
from tunewright.env_builder.images.options import ImageOptions
from tunewright.env_builder.images.targets import ImageTarget, find_target, is_target


def find_problems(root: Path, home: Path, spec: EnvironmentSpec, asks_daemon: bool) -> list[Finding]:
    """What speaks against the environment that `spec` asks for. `asks_daemon`: also what only Docker's daemon knows."""
    if spec.kind == "pex":
        return [*find_project_problems(root, home), *lock_findings(root)]
    assert spec.image is not None, "the experiment's types see to it"
    if not is_target(root, spec.image):
        return [] if has_digest(spec.image) else [_unknown_image(root, spec.image)]
    target = find_target(root, spec.image)
    findings = [*lock_findings(root), *checkout_findings(root)]
    if not asks_daemon:
        return [*find_project_problems(root, home, program=None), *findings]
    return [*findings, *driver_findings(root, target), *_daemon_findings(root, home)]


def is_there(root: Path, home: Path, spec: EnvironmentSpec) -> bool:
    """Whether the PEX of the commit that is checked out was built in this home."""
    from tunewright.env_builder.git import head_commit
    from tunewright.env_builder.inputs import inputs_of
    from tunewright.env_builder.record import EnvironmentPlace, read_built

    if spec.kind != "pex":
        return False
    try:
        inputs = inputs_of(root, head_commit(root), with_changes=False)
    except TunewrightError:
        return False
    return read_built(EnvironmentPlace(home, inputs.key)) is not None


def _unknown_image(root: Path, reference: str) -> Finding:
    try:
        find_target(root, reference)
    except TunewrightError as error:
        return Finding(code="image-unknown", path="environment.image", message=error.message, hint=error.hint)
    raise AssertionError  # never reached: is_target has looked


def lock_findings(root: Path) -> list[Finding]:
    """Whether locks and requirements agree, whether a lock has what is known to be bad, whether CUDA's parts fit."""
    from tunewright.env_builder.locks.cuda_image import find_cuda_problems
    from tunewright.env_builder.locks.pins import find_known_bad_pins
    from tunewright.env_builder.locks.project import find_lock_problems

    return [*find_lock_problems(root), *find_known_bad_pins(root), *find_cuda_problems(root)]


def driver_findings(root: Path, target: ImageTarget) -> list[Finding]:
    """Whether this machine's driver can run the CUDA of the image. It warns: the job may run elsewhere."""
    if target.resolve != "train-cuda":
        return []
    from tunewright.env_builder.locks.cuda_image import cuda_versions
    from tunewright.env_builder.locks.driver import ask_host, find_driver_problems

    versions = cuda_versions(root)
    if versions is None:
        return []  # that they cannot be read is a finding of its own
    found = find_driver_problems(versions.cuda, versions.minimum_compute_capability, ask_host())
    return [finding.model_copy(update={"severity": Severity.WARNING}) for finding in found]


def checkout_findings(root: Path) -> list[Finding]:
    """What about the checkout may surprise later: nothing of it stands in the way of an image's bytes."""
    from tunewright.env_builder.checkout import find_checkout_problems

    return find_checkout_problems(root)


def _daemon_findings(root: Path, home: Path) -> list[Finding]:
    from tunewright.env_builder.images.checks import find_image_problems
    from tunewright.env_builder.images.daemon import open_daemon

    try:
        with open_daemon() as daemon:
            return find_image_problems(root, home, daemon, ImageOptions.from_environment())
    except TunewrightError as error:
        return [
            Finding(code="docker-daemon-unreachable", severity=Severity.ERROR, message=error.message, hint=error.hint)
        ]
