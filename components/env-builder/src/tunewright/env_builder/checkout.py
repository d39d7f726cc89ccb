"""The state of the checkout, as GitPython tells it: submodules, history, branch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tunewright.contracts.preflight import Finding, Severity

if TYPE_CHECKING:
    import git


def find_checkout_problems(root: Path) -> list[Finding]:
    """Submodules that are not at the commit's own state are errors; a shallow or detached checkout is worth a word."""
    import git
    from git.exc import GitError

    try:
        repository = git.Repo(root, search_parent_directories=True)
        return [*_submodules(repository), *_shallow(repository), *_detached(repository)]
    except GitError:
        return []  # no checkout at all is told by whoever asks for its commit


def _submodules(repository: git.Repo) -> list[Finding]:
    findings = []
    for submodule in repository.submodules:
        is_there = submodule.module_exists()
        if is_there and submodule.module().head.commit.hexsha == submodule.hexsha:
            continue
        state = f"is at {submodule.module().head.commit.hexsha[:12]}" if is_there else "is not checked out"
        message = f"submodule {submodule.path} {state}; the commit has it at {submodule.hexsha[:12]}"
        hint = "git submodule update --init --recursive"
        findings.append(Finding(code="submodule-not-at-commit", message=message, hint=hint))
    return findings


def _shallow(repository: git.Repo) -> list[Finding]:
    if repository.git.rev_parse("--is-shallow-repository") != "true":
        return []
    message = "the checkout is shallow: its commit can be built, but not compared with what came before"
    hint = "git fetch --unshallow"
    return [Finding(code="checkout-shallow", severity=Severity.WARNING, message=message, hint=hint)]


def _detached(repository: git.Repo) -> list[Finding]:
    if not repository.head.is_detached:
        return []
    message = "no branch is checked out: the image's name says `detached` in its place"
    hint = "git switch BRANCH, or env-builder build --branch NAME"
    return [Finding(code="checkout-detached", severity=Severity.WARNING, message=message, hint=hint)]
