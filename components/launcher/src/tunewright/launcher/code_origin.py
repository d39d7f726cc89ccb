"""Which code a run is made of: commit, branch, and whether the tree differs from it."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.environments import CodeOrigin
from tunewright.contracts.preflight import Finding

_SHOWN_FILES = 10


@dataclass(frozen=True)
class Checkout:
    """The state of a checkout, and the patch that a dirty one carries."""

    origin: CodeOrigin
    patch: bytes = b""
    findings: tuple[Finding, ...] = ()


def inspect_checkout(root: Path, allow_dirty: bool) -> Checkout:
    """Ask git about the checkout at `root`. What is wrong comes back as findings, nothing is raised or written."""
    try:
        commit = _git(root, "rev-parse", "--verify", "HEAD").decode().strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return Checkout(CodeOrigin(commit="", dirty=True), findings=(_no_commit(root),))
    branch = _git(root, "rev-parse", "--abbrev-ref", "HEAD").decode().strip()
    origin = CodeOrigin(commit=commit, branch=None if branch == "HEAD" else branch)
    changed = _changed_files(root)
    if not changed:
        return Checkout(origin)
    if not allow_dirty:
        return Checkout(origin.model_copy(update={"dirty": True}), findings=(_dirty(changed),))
    patch = _patch(root)
    digest = hashlib.sha256(patch).hexdigest()
    return Checkout(origin.model_copy(update={"dirty": True, "patch_sha256": digest}), patch)


def _git(root: Path, *arguments: str) -> bytes:
    # Without optional locks git does not even refresh its index: `plan` must write nothing.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True).stdout


def _changed_files(root: Path) -> list[str]:
    """What differs from the commit, new files included, as `git status` words it."""
    output = _git(root, "status", "--porcelain", "--untracked-files=all", "-z")
    return [entry.decode(errors="replace") for entry in output.split(b"\0") if entry]


def _patch(root: Path) -> bytes:
    """All that the tree has beyond its commit, as a patch that `git apply` takes: changes, then new files."""
    tracked = _git(root, "diff", "--binary", "HEAD")
    names = _git(root, "ls-files", "--others", "--exclude-standard", "-z").split(b"\0")
    return tracked + b"".join(_new_file(root, name.decode()) for name in names if name)


def _new_file(root: Path, name: str) -> bytes:
    command = ["git", "-C", str(root), "diff", "--binary", "--no-index", "--", "/dev/null", name]
    # Differences make git exit 1 here: that is the expected outcome.
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True).stdout


def _no_commit(root: Path) -> Finding:
    message = f"{root} is no git checkout with a commit: the run could not be repeated"
    return Finding(code="not-a-git-checkout", message=message, hint="commit first: `git init && git add -A && git commit`")


def _dirty(changed: list[str]) -> Finding:
    shown = "".join(f"\n      {line}" for line in changed[:_SHOWN_FILES])
    more = f"\n      ... and {len(changed) - _SHOWN_FILES} more" if len(changed) > _SHOWN_FILES else ""
    return Finding(
        code="git-tree-dirty",
        message=f"the tree differs from its commit in {len(changed)} file(s):{shown}{more}",
        hint="commit them, or keep the difference in the run's record with --allow-dirty",
    )
