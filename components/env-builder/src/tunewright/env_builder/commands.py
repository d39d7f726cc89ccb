"""The commands of the env-builder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tunewright.contracts.environments import CodeOrigin, EnvironmentRequest
from tunewright.contracts.errors import PreflightFailed, TunewrightError, UsageError
from tunewright.contracts.experiment import EnvironmentSpec
from tunewright.contracts.experiment_file import find_home, find_project_root, load_experiment
from tunewright.contracts.files import json_text
from tunewright.contracts.preflight import Finding, PreflightReport
from tunewright.env_builder.git import current_branch, head_commit
from tunewright.env_builder.inputs import TARGET, changes
from tunewright.env_builder.record import find_place, list_built, verify_built

_SHOWN_FILES = 10

as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def _project() -> tuple[Path, Path]:
    root = find_project_root(Path.cwd() / "here")
    return root, find_home(root)


def _print(document: Any) -> None:
    click.echo(json_text(document), nl=False)


@click.command()
@click.argument("experiment", required=False, type=click.Path(path_type=Path))
@as_json
def check(experiment: Path | None, as_json: bool) -> int:
    """Show what speaks against building here; with EXPERIMENT, also what it asks for. Exits 77 if anything does."""
    from tunewright.env_builder.checks import find_kind_problems, find_project_problems

    root, home = _project()
    spec = EnvironmentSpec()
    if experiment is not None:
        loaded = load_experiment(experiment)
        root, home, spec = loaded.project_root, loaded.home, loaded.spec.environment
    findings = [*find_kind_problems(spec), *find_project_problems(root, home), *_tree_findings(root)]
    report = PreflightReport(findings=tuple(findings))
    if as_json:
        _print(report.to_document())
    else:
        click.echo("\n".join(f"{finding.severity}: {finding}" for finding in findings) or f"all well in {root}")
    return PreflightFailed.exit_code if report.errors else 0


def _tree_findings(root: Path) -> list[Finding]:
    """Whether there is a commit, and whether what decides the environment is as it says."""
    try:
        head_commit(root)
        changed = sorted(changes(root))
    except TunewrightError as error:
        return [Finding(code="not-a-git-checkout", message=error.message, hint=error.hint or "make a commit first")]
    if not changed:
        return []
    shown = ", ".join(changed[:_SHOWN_FILES]) + (", ..." if len(changed) > _SHOWN_FILES else "")
    message = f"{len(changed)} file(s) that decide the environment differ from the commit: {shown}"
    return [Finding(code="git-tree-dirty", message=message, hint="commit them, or build with --allow-dirty")]


@click.command()
@click.argument("target", required=False)
@click.option("--allow-dirty", is_flag=True, help="Build what lies in the tree; it never replaces the commit's own.")
@as_json
def build(target: str | None, allow_dirty: bool, as_json: bool) -> None:
    """Build the environment of the commit that is checked out, or find it where it was built before.

    TARGET is an experiment file, whose `[environment]` counts, or `components/trainer:trainer`, which is the default.
    """
    from tunewright.env_builder.build import ensure_environment

    request = _request(target, allow_dirty)
    provided = ensure_environment(request)
    if as_json:
        _print({**provided.reference.to_document(), "built": provided.built})
    else:
        click.echo(provided.reference.reference)
    if not provided.built:
        click.echo("nothing to build: this environment is there", err=True)


def _request(target: str | None, allow_dirty: bool) -> EnvironmentRequest:
    root, home = _project()
    spec = EnvironmentSpec()
    if target is not None and target.endswith(".toml"):
        loaded = load_experiment(Path(target))
        root, home, spec = loaded.project_root, loaded.home, loaded.spec.environment
    elif target not in (None, TARGET):
        raise UsageError(f"`{target}`: must be an experiment file (*.toml) or `{TARGET}`")
    from tunewright.env_builder.checks import find_kind_problems

    tree = _tree_findings(root)
    refused = [*find_kind_problems(spec), *(one for one in tree if not (allow_dirty and one.code == "git-tree-dirty"))]
    if refused:
        lines = "".join(f"\n  {finding}" for finding in refused)
        report = PreflightReport(findings=tuple(refused))
        raise PreflightFailed(f"the environment is not built:{lines}", report=report)
    code = CodeOrigin(commit=head_commit(root), branch=current_branch(root), dirty=bool(tree))
    return EnvironmentRequest(spec=spec, project_root=str(root), home=str(home), code=code)


@click.command()
@click.argument("reference", metavar="REF")
@as_json
def verify(reference: str, as_json: bool) -> None:
    """Compare every byte of the environment REF with its record; exit 65 if one differs.

    REF is a key, the beginning of one, or a path.
    """
    built = verify_built(find_place(_project()[1], reference))
    if as_json:
        _print({**built.plain.to_document(), "verified": True, "files": len(built.files)})
    else:
        click.echo(f"{built.key}: {len(built.files)} file(s) as recorded, sha256 {built.sha256}")


@click.command(name="list")
@as_json
def list_environments(as_json: bool) -> None:
    """List the environments that are built, the oldest first."""
    found = list_built(_project()[1])
    if as_json:
        _print([built.model_dump(mode="json", exclude={"files"}) for built in found])
        return
    for built in found:
        size_mib = sum(record.bytes for record in built.files) / 2**20
        commit = str(built.commit)[:12]
        click.echo(f"{built.key[:16]}  {built.built_at}  commit {commit}  {size_mib:7.1f} MiB  {built.reference}")
