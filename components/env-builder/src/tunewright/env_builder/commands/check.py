"""`env-builder check`."""

from __future__ import annotations

from pathlib import Path

import click

from tunewright.contracts.errors import PreflightFailed
from tunewright.contracts.experiment import EnvironmentSpec
from tunewright.contracts.experiment_file import load_experiment
from tunewright.contracts.preflight import PreflightReport
from tunewright.env_builder.commands.common import as_json, paths_of, print_document, project, tree_findings


@click.command()
@click.argument("target", required=False)
@as_json
def check(target: str | None, as_json: bool) -> int:
    """Show what speaks against building here. Exits 77 if anything does.

    TARGET is an experiment file, whose `[environment]` counts, or an image such as images/trainer-cpu.
    """
    from tunewright.env_builder.preflight import find_problems

    root, home = project()
    spec = EnvironmentSpec()
    if target is not None and target.endswith(".toml"):
        loaded = load_experiment(Path(target))
        root, home, spec = loaded.project_root, loaded.home, loaded.spec.environment
    elif target is not None and target.startswith("images/"):
        spec = EnvironmentSpec(kind="image", image=target)
    findings = [*find_problems(root, home, spec, asks_daemon=True), *tree_findings(root, paths_of(root, spec))]
    report = PreflightReport(findings=tuple(findings))
    if as_json:
        print_document(report.to_document())
    else:
        click.echo("\n".join(f"{finding.severity}: {finding}" for finding in findings) or f"all well in {root}")
    return PreflightFailed.exit_code if report.errors else 0
