"""The code of a recorded run: this clone where it is that, else a worktree of the recorded commit below the home."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.errors import IntegrityError, NotFound, RecordMismatch, Unavailable
from tunewright.contracts.file_locks import held
from tunewright.launcher.code_origin import Checkout, inspect_checkout, run_git
from tunewright.launcher.records import FoundRecord

WORKTREES = "worktrees"
"""Folder of the home in which recorded commits are checked out."""


@dataclass(frozen=True)
class Place:
    """Where a run is made again."""

    project_root: Path
    """The clone: data and models are taken from here, as they lie."""

    home: Path
    """`$TUNEWRIGHT_HOME`."""


@contextmanager
def recorded_checkout(found: FoundRecord, place: Place, keep: bool) -> Iterator[tuple[Path, Checkout]]:
    """The recorded code: this clone where it is that, else a worktree of the recorded commit below the home.

    Raises as `refuse_unknown_commit`, and RecordMismatch where git cannot check the commit out. The worktree is gone
    afterwards, unless `keep`: jobs run from the environment that was built, not from there.
    """
    code = found.record.code
    here = inspect_checkout(place.project_root, place.home, allow_dirty=True)
    if (here.origin.commit, here.origin.patch_sha256) == (code["commit"], code.get("patch_sha256")):
        yield place.project_root, here
        return
    patch = _read_patch(found) if code.get("dirty") else b""
    worktree = place.home / WORKTREES / (code["commit"][:12] + (f"-{code['patch_sha256'][:8]}" if patch else ""))
    worktree.parent.mkdir(parents=True, exist_ok=True)
    with held(worktree.with_name(f".{worktree.name}.lock")):
        _add_worktree(place, worktree, code["commit"], patch)
        try:
            yield worktree, inspect_checkout(worktree, place.home, allow_dirty=bool(patch))
        finally:
            if not keep:
                _remove_worktree(place, worktree)


def refuse_unknown_commit(found: FoundRecord, place: Place) -> None:
    """Raise NotFound where this clone does not have the recorded commit, or a patch that it needs is not there."""
    code = found.record.code
    try:
        run_git(place.project_root, "cat-file", "-e", f"{code['commit']}^{{commit}}")
    except FileNotFoundError:
        raise Unavailable("git is not installed: the recorded code cannot be had", "install git") from None
    except subprocess.CalledProcessError:
        raise NotFound(
            f"code.commit: {place.project_root} does not know the commit {code['commit']} of run `{found.record.run}`",
            "run this in a clone that has it: `git fetch` may bring it",
        ) from None
    if code.get("dirty"):
        _read_patch(found)


def _read_patch(found: FoundRecord) -> bytes:
    wanted = found.record.code.get("patch_sha256")
    try:
        patch = found.patch.read_bytes()
    except OSError:
        raise NotFound(
            f"code.patch_sha256: run `{found.record.run}` had changes beyond its commit; {found.patch} is not there",
            "put the run's dirty.patch beside its record",
        ) from None
    actual = hashlib.sha256(patch).hexdigest()
    if actual != wanted:
        raise IntegrityError(f"code.patch_sha256: {found.patch}: sha256 is {actual}, must be {wanted}")
    return patch


def _add_worktree(place: Place, worktree: Path, commit: str, patch: bytes) -> None:
    """Make `worktree` a clean checkout of `commit`, with `patch` on top."""
    _remove_worktree(place, worktree)  # one that a reproduction before left may have been changed since
    try:
        run_git(place.project_root, "worktree", "add", "--quiet", "--detach", str(worktree), commit)
        if patch:
            run_git(worktree, "apply", "--whitespace=nowarn", "-", given=patch)
    except subprocess.CalledProcessError as error:
        _remove_worktree(place, worktree)
        said = error.stderr.decode(errors="replace").strip()
        raise RecordMismatch(f"code.commit: {commit[:12]} could not be checked out at {worktree}: {said}") from None


def _remove_worktree(place: Place, worktree: Path) -> None:
    """Take the worktree away, and git's own note of it."""
    shutil.rmtree(worktree, ignore_errors=True)
    run_git(place.project_root, "worktree", "prune", expect=(0, 128))
