"""Which code a run is made of: commit, branch, and whether the tree differs from it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.environments import CodeOrigin
from tunewright.contracts.preflight import Finding, Severity

_SHOWN_FILES = 10

# A git hook or a wrapper may have left these: they would point git at another repository than the experiment's.
_OTHER_REPOSITORY = frozenset(
    {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"}
)
# What a user's configuration could change in the patch's text, so that `git apply` would not take it.
_PLAIN_PATCH = ("--binary", "--no-color", "--no-ext-diff", "--no-textconv", "--src-prefix=a/", "--dst-prefix=b/")


@dataclass(frozen=True)
class Checkout:
    """The state of a checkout, and the patch that a dirty one carries."""

    origin: CodeOrigin
    patch: bytes = b""
    findings: tuple[Finding, ...] = ()


def inspect_checkout(root: Path, home: Path, allow_dirty: bool) -> Checkout:
    """Ask git about the checkout at `root`. What is wrong comes back as findings; nothing is raised or written.

    What lies in `home`, our own runs and caches, is no change of the code.
    """
    try:
        commit, branch = run_git(root, "rev-parse", "HEAD", "--abbrev-ref", "HEAD").decode().split()
    except FileNotFoundError:
        return Checkout(CodeOrigin(commit="", dirty=True), findings=(_withoutrun_git(),))
    except subprocess.CalledProcessError as error:
        return Checkout(CodeOrigin(commit="", dirty=True), findings=(_no_commit(root, error.stderr),))
    origin = CodeOrigin(commit=commit, branch=None if branch == "HEAD" else branch)
    scope = _all_but(home, root)
    changed = _changed_files(root, scope)
    if not changed:
        return Checkout(origin)
    if not allow_dirty:
        return Checkout(origin.model_copy(update={"dirty": True}), findings=(_dirty(changed, Severity.ERROR),))
    patch = _patch(root, scope)
    digest = hashlib.sha256(patch).hexdigest()
    findings = (_dirty(changed, Severity.WARNING), *_not_in_patch(root, scope))
    return Checkout(origin.model_copy(update={"dirty": True, "patch_sha256": digest}), patch, findings)


def run_git(root: Path, *arguments: str, expect: Sequence[int] = (0,), given: bytes = b"") -> bytes:
    """What `git ARGUMENTS` prints in `root`, with `given` on its standard input.

    Raises CalledProcessError for an exit code that is not expected, FileNotFoundError where there is no git.
    """
    # Without optional locks git does not even refresh its index: `plan` must write nothing.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    environment = {key: value for key, value in os.environ.items() if key not in _OTHER_REPOSITORY}
    stdin = None if given else subprocess.DEVNULL  # a pipe would be a file that is opened for writing
    result = subprocess.run(
        command, check=False, stdin=stdin, input=given or None, capture_output=True, env={**environment, "LC_ALL": "C"}
    )
    if result.returncode not in expect:
        raise subprocess.CalledProcessError(result.returncode, command, result.stdout, result.stderr)
    return result.stdout


def _all_but(home: Path, root: Path) -> tuple[str, ...]:
    """Arguments that leave `home` out, where it lies in the checkout."""
    try:
        inside = home.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return ()
    return () if inside == "." else ("--", ".", f":(top,exclude,literal){inside}")


def _changed_files(root: Path, scope: Sequence[str]) -> list[str]:
    """What differs from the commit, new files included, as `git status` words it: `?? new.py`."""
    options = ("--porcelain", "--untracked-files=all", "--ignore-submodules=none", "--no-renames", "-z")
    output = run_git(root, "status", *options, *scope)
    return [entry.decode(errors="replace") for entry in output.split(b"\0") if entry]


def _patch(root: Path, scope: Sequence[str]) -> bytes:
    """All that the tree has beyond its commit, as a patch that `git apply` takes: changes, then new files."""
    tracked = run_git(root, "diff", *_PLAIN_PATCH, "--no-renames", "HEAD", *scope)
    return tracked + b"".join(_new_file(root, name) for name in _untracked(root, scope) if not name.endswith("/"))


def _untracked(root: Path, scope: Sequence[str]) -> list[str]:
    output = run_git(root, "ls-files", "--others", "--exclude-standard", "-z", *scope)
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def _new_file(root: Path, name: str) -> bytes:
    # Differences make git exit 1 here: that is the expected outcome.
    return run_git(root, "diff", *_PLAIN_PATCH, "--no-index", "--", "/dev/null", name, expect=(0, 1))


def _not_in_patch(root: Path, scope: Sequence[str]) -> tuple[Finding, ...]:
    """Checkouts inside the checkout: git keeps their commit at most, never their content."""
    submodules = run_git(root, "diff", "--raw", "--no-renames", "HEAD", *scope).decode(errors="replace").splitlines()
    inner = [line.partition("\t")[2] for line in submodules if line.startswith((":160000 ", ":000000 160000 "))]
    inner += [name for name in _untracked(root, scope) if name.endswith("/")]
    code, hint = "inner-checkout-not-kept", "commit them there"
    message = "is a checkout of its own: its changes are not in the patch, and the run could not be repeated from it"
    return tuple(Finding(code=code, severity=Severity.WARNING, path=name, message=message, hint=hint) for name in inner)


def _withoutrun_git() -> Finding:
    message = "git is not installed: which code runs cannot be recorded"
    return Finding(code="not-a-git-checkout", message=message, hint="install git")


def _no_commit(root: Path, words: bytes) -> Finding:
    said = words.decode(errors="replace").strip().splitlines()
    because = f" (git says: {said[0]})" if said and "dubious ownership" in said[0] else ""
    message = f"{root} is no git checkout with a commit, so that the run could not be repeated{because}"
    hint = "commit first: `git init && git add -A && git commit`"
    return Finding(code="not-a-git-checkout", message=message, hint=hint)


def _dirty(changed: list[str], severity: Severity) -> Finding:
    shown = "".join(f"\n      {line}" for line in changed[:_SHOWN_FILES])
    more = f"\n      ... and {len(changed) - _SHOWN_FILES} more" if len(changed) > _SHOWN_FILES else ""
    hint = "commit them, or keep the difference in the run's record with --allow-dirty"
    return Finding(
        code="git-tree-dirty",
        severity=severity,
        message=f"the tree differs from its commit in {len(changed)} file(s):{shown}{more}",
        hint=hint if severity is Severity.ERROR else "the difference is kept in the run's dirty.patch",
    )
