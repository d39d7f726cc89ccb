"""The options of `env-builder build` that are about another project's file. Light to import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, get_args

import click

from tunewright.contracts.errors import UsageError
from tunewright.env_builder.foreign.lock import SourceKind

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class ForeignOptions:
    """What was given of them."""

    source: Path | None = None
    """The other project's file. None: nothing of another project's is asked for."""

    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    allow_unpinned: bool = False
    source_format: SourceKind | None = None
    dry_run: bool = False

    def refuse_without_source(self) -> None:
        """Raise UsageError where something was given that means nothing without `--from`."""
        if self.source is None and self != ForeignOptions():
            raise UsageError("--extra, --group, --allow-unpinned, --format and --dry-run go with --from FILE")


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
    """Give `command` these options; it gets them as `foreign`, a ForeignOptions."""

    @wraps(command)
    def collected(*args: Any, **kwargs: Any) -> Any:
        foreign = ForeignOptions(**{one.name: kwargs.pop(one.name) for one in fields(ForeignOptions)})
        foreign.refuse_without_source()
        return command(*args, foreign=foreign, **kwargs)

    for option in reversed(_OPTIONS):
        collected = option(collected)
    return collected  # type: ignore[return-value]  # called as the command is
