"""What the env-builder asks git, by argument lists, without touching the checkout or its index."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunewright.contracts.errors import NotFound

# A git hook, or another tool around us, may have set these for a repository of its own.
_FOREIGN = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX")


def run_git(root: Path, *arguments: str, index: Path | None = None) -> str:
    """The output of `git ARGUMENTS` in `root`, with another index if told. Raises NotFound with git's own words."""
    command = ["git", "--no-optional-locks", "--literal-pathspecs", "-C", str(root), *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    if index is not None:
        environment["GIT_INDEX_FILE"] = str(index)
    try:
        done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError:
        raise NotFound("`git` is not on PATH", "install git: environments are told apart by their commit") from None
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        asked = " ".join(arguments[: arguments.index("--")] if "--" in arguments else arguments)
        raise NotFound(f"`git {asked}` failed in {root}: {words}")
    return os.fsdecode(done.stdout)


def head_commit(root: Path) -> str:
    """The full id of the commit that is checked out."""
    return run_git(root, "rev-parse", "--verify", "HEAD^{commit}").strip()


def current_branch(root: Path) -> str | None:
    """The branch that is checked out, None where none is."""
    name = run_git(root, "rev-parse", "--abbrev-ref", "HEAD").strip()
    return None if name == "HEAD" else name


def commit_date(root: Path, commit: str) -> str:
    """When `commit` was made, ISO 8601."""
    return run_git(root, "show", "--no-patch", "--format=%cI", commit).strip()


def source_url(root: Path) -> str:
    """Where the project is cloned from, without any user or password; empty where that is no web address."""
    try:
        url = run_git(root, "config", "--get", "remote.origin.url").strip()
    except NotFound:
        return ""
    match = re.match(r"(https?://)(?:[^/@]*@)?(.+)", url)
    return f"{match[1]}{match[2]}" if match else ""


def dirty_patch(root: Path) -> bytes:
    """All that the tree has beyond its commit, new files included, as `git apply` takes it. The index stays as is."""
    with tempfile.TemporaryDirectory() as scratch:
        index = Path(scratch) / "index"
        own = Path(run_git(root, "rev-parse", "--git-path", "index").strip())
        own = own if own.is_absolute() else root / own
        if own.exists():
            shutil.copyfile(own, index)
        run_git(root, "add", "--intent-to-add", "--all", index=index)
        plain = (
            "--binary",
            "--no-color",
            "--no-ext-diff",
            "--no-textconv",
            "--no-renames",
            "--src-prefix=a/",
            "--dst-prefix=b/",
        )
        return os.fsencode(run_git(root, "diff", *plain, "HEAD", index=index))


@functools.cache
def committed_files(root: Path, commit: str, paths: tuple[str, ...]) -> Mapping[str, str]:
    """Every file of `commit` below `paths`, with its mode and blob id. A commit never changes: asked once."""
    listing = run_git(root, "ls-tree", "-r", "-z", "--full-tree", commit, "--", *paths)
    entries = (entry.split("\t", 1) for entry in listing.split("\0") if entry)
    return {name: " ".join(described.split()[::2]) for described, name in entries}


def changed_files(root: Path, paths: Sequence[str]) -> list[str]:
    """The files below `paths` that differ from the commit that is checked out, new ones included."""
    tracked = run_git(root, "diff", "--name-only", "--no-renames", "--no-ext-diff", "-z", "HEAD", "--", *paths)
    untracked = run_git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *paths)
    return sorted({name for name in (tracked + untracked).split("\0") if name})
