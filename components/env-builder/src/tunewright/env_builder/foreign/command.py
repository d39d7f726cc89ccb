"""`env-builder build --from FILE`: an environment of what another project's lock names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tunewright.contracts.command_line import run_command_line
from tunewright.contracts.errors import UsageError
from tunewright.contracts.experiment_file import find_home, find_project_root
from tunewright.contracts.files import json_text
from tunewright.env_builder.foreign.build import ForeignEnvironment, ForeignRequest, ensure_foreign_environment
from tunewright.env_builder.foreign.key import requirements_text
from tunewright.env_builder.foreign.options import ForeignOptions, foreign_options
from tunewright.env_builder.foreign.target import Selection
from tunewright.env_builder.progress import say

_WIDEST = 48


@click.command(name="build")
@foreign_options
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def build_from(foreign: ForeignOptions, as_json: bool) -> None:
    """Build an environment of what another project's lock names, or find it where it was built before."""
    run_build_from(foreign, as_json)


def run_build_from(foreign: ForeignOptions, as_json: bool) -> None:
    """What `build --from` does: the environment (in a dry run the lock) on stdout, what is left out on stderr."""
    if foreign.source is None:
        raise UsageError("--from FILE is missing")
    root = find_project_root(Path.cwd() / "here")
    request = ForeignRequest(
        source=foreign.source,
        project_root=root,
        home=find_home(root),
        selection=Selection.of(foreign.extras, foreign.groups),
        allow_unpinned=foreign.allow_unpinned,
        kind=foreign.source_format,
        plan_only=foreign.dry_run,
    )
    environment = ensure_foreign_environment(request)
    if as_json:
        click.echo(json_text(_document(environment, foreign.dry_run)), nl=False)
    elif foreign.dry_run:
        click.echo(_plan_text(environment), nl=False)
    elif environment.reference is not None:
        click.echo(environment.reference.reference)
    _tell(environment, foreign.dry_run)


def _document(environment: ForeignEnvironment, dry_run: bool) -> dict[str, Any]:
    lock, reference = environment.lock, environment.reference
    about = {
        "built": environment.built,
        "from": {"file": lock.source, "format": lock.kind, "requires_python": lock.requires_python},
        "pins": len(environment.pins),
        "hashed": lock.hashed,
        "left_out": [one.to_document() for one in lock.left_out],
        "notes": list(environment.notes),
    }
    if dry_run:
        about["packages"] = [pin.to_document() for pin in environment.pins]
        about["unpinned"] = [] if reference else [one.to_document() for one in lock.loose]
    return {**(reference.to_document() if reference else {"key": None, "reference": None}), **about}


def _plan_text(environment: ForeignEnvironment) -> str:
    """The lock; what is not known yet stands in it as the file has it, as a comment."""
    unknown = [] if environment.reference else environment.lock.loose
    return requirements_text(environment.pins) + "".join(f"# unpinned: {one.requirement}\n" for one in unknown)


def _tell(environment: ForeignEnvironment, dry_run: bool) -> None:
    lock = environment.lock
    hashed = f"{lock.hashed} of {len(lock.pins)} with hashes"
    say(f"{lock.source} ({lock.kind}): {len(environment.pins)} package(s), {hashed}; {len(lock.left_out)} left out")
    if lock.left_out:
        width = min(_WIDEST, max(len(one.what) for one in lock.left_out))
        say("left out:")
        for one in lock.left_out:
            say(f"  {one.what:<{width}}  {one.why}")
    for note in environment.notes:
        say(f"note: {note}")
    if not (environment.built or dry_run):
        say("nothing to build: this environment is there")


if __name__ == "__main__":
    run_command_line(build_from, "env-builder build")
