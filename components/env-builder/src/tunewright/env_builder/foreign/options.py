"""The options of `env-builder build` that are about another project's file. Light to import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from tunewright.env_builder.foreign.lock import SourceKind

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--from",
        "source",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Another project's uv.lock, pylock.toml, poetry.lock, requirements.txt, conda-lock.yml, environment.yml: "
        "an environment of what it pins.",
    ),
    click.option(
        "--extra", "extras", multiple=True, metavar="NAME", help="With --from: also this extra. May be given again."
    ),
    click.option(
        "--group", "groups", multiple=True, metavar="NAME", help="With --from: also this group. May be given again."
    ),
    click.option(
        "--allow-unpinned", is_flag=True, help="With --from: resolve what has no exact version, once, and record it."
    ),
    click.option(
        "--format",
        "source_format",
        type=click.Choice(get_args(SourceKind)),
        help="With --from: what the file is, where its name and content do not tell.",
    ),
    click.option("--dry-run", is_flag=True, help="With --from: print the lock, and what is left out; build nothing."),
)


def foreign_options(command: Command) -> Command:
    """Give `command` these options: `source`, `extras`, `groups`, `allow_unpinned`, `source_format`, `dry_run`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
