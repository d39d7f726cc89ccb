"""What a job runs in: the question the launcher asks, and the answer an environment builder gives."""

from __future__ import annotations

from typing import Literal

from tunewright.contracts.experiment import EnvironmentSpec
from tunewright.contracts.spec import Spec


class CodeOrigin(Spec):
    """Which code a run is made of."""

    commit: str
    """The full commit id of the project."""

    branch: str | None = None
    """The branch that was checked out, or None where none was."""

    dirty: bool = False
    """Whether the tree differed from the commit."""

    patch_sha256: str | None = None
    """SHA-256 of the patch that was kept in the run, where the tree was dirty."""


class EnvironmentRequest(Spec):
    """The question: an environment for this code."""

    spec: EnvironmentSpec
    """The experiment's `[environment]`."""

    project_root: str
    """Absolute path of the checkout."""

    home: str
    """Absolute path of `$TUNEWRIGHT_HOME`: environments are kept below it."""

    code: CodeOrigin
    """The code it is made of."""

    plan_only: bool = False
    """Only say what it would be: build nothing, write nothing, open no socket."""


class EnvironmentRef(Spec):
    """The answer: an environment a job can be started in. Written to `environment.json`."""

    kind: Literal["pex", "image"]
    """What `reference` is: a PEX or an image."""

    key: str
    """SHA-256 of everything that decides the environment. Known before it is built."""

    reference: str
    """Where it is: the PEX's absolute path, or the image's reference with its digest."""

    command: tuple[str, ...]
    """The arguments that start the trainer in it; `train JOB` follows."""

    variables: dict[str, str] = {}
    """Variables the environment itself needs."""

    sha256: str | None = None
    """Digest of the PEX (of its tree) or of the image. None in a plan before it is built."""

    lock_digest: str | None = None
    """SHA-256 of the lockfile its third-party packages came from."""

    python: str | None = None
    """Version of its interpreter."""

    commit: str | None = None
    """The commit it was built from. Older than the run's where nothing it depends on has changed since."""
