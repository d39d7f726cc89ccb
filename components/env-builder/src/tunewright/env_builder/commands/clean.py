"""`env-builder clean`."""

from __future__ import annotations

import click

from tunewright.env_builder.cleaning import Candidate, find_candidates, remove_candidate
from tunewright.env_builder.commands.common import as_json, print_document, project


@click.command()
@click.option(
    "--older-than", "older_than_days", type=click.FloatRange(0), default=30.0, show_default=True, metavar="DAYS"
)
@click.option("--keep", type=click.IntRange(0), default=2, show_default=True, help="The newest of each kind stay.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def clean(older_than_days: float, keep: int, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Remove environments that are old and that no run uses, and what killed builds left. Asks first."""
    home = project()[1]
    candidates = find_candidates(home, older_than_days, keep)
    going = [one for one in candidates if not one.kept_because]
    if not as_json:
        for one in candidates:
            click.echo(_line(one))
    freed_bytes = sum(one.bytes for one in going)
    if going and not dry_run:
        if not yes:
            click.confirm(
                f"remove {len(going)} of {len(candidates)}, {freed_bytes / 2**20:.0f} MiB?", abort=True, err=True
            )
        for one in going:
            remove_candidate(home, one)
    verb = "would free" if dry_run else "freed"
    if as_json:
        listed = [one.to_document() for one in candidates]
        print_document({"dry_run": dry_run, "removed": len(going), "bytes": freed_bytes, "found": listed})
    else:
        click.echo(f"{verb} {freed_bytes / 2**20:.0f} MiB: {len(going)} of {len(candidates)}", err=True)


def _line(one: Candidate) -> str:
    what = f"stays: {one.kept_because}" if one.kept_because else "goes"
    return f"{one.kind:8}  {one.name[:16]:16}  {one.bytes / 2**20:9.1f} MiB  {one.age_days:7.1f} days  {what}"
