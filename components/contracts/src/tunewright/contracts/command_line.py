"""What the four command lines share: lazy commands, exit codes, one way to print an error, `--version`.

Nothing heavy is imported before a command that needs it is chosen, so `--help` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

EXIT_USAGE = 64
EXIT_INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called for.

    `lazy_commands` maps a command's name to (`package.module:command`, one line of help).
    """

    def __init__(self, *args: Any, lazy_commands: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lazy = dict(lazy_commands)

    def list_commands(self, context: click.Context) -> list[str]:
        """All names, in the order they were given."""
        return list(self._lazy)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import the command `name`."""
        if name not in self._lazy:
            return None
        module, _, attribute = self._lazy[name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), f"{module}:{attribute} is not a click command"
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, from their one-line helps: nothing is imported for it."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in self._lazy.items()])

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a hint for a misspelt command."""
        if args and args[0] not in self._lazy and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], self._lazy, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise click.UsageError(f"no such command `{args[0]}`; there are: {', '.join(self._lazy)}.{hint}", context)
        return super().resolve_command(context, args)


def version_text(distribution: str) -> str:
    """`tunewright-launcher 0.1.0 (commit 3f2a...)`: the component's own version, and the commit it was built from.

    Packages carry the commit; `pants run` tells it by TUNEWRIGHT_RUN_COMMIT.
    """
    from importlib import metadata

    try:
        found = metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return f"{distribution} (not installed as a distribution)"
    commit = (found.read_text("COMMIT") or "").strip() or os.environ.get("TUNEWRIGHT_RUN_COMMIT") or "unknown"
    return f"{distribution} {found.version} (commit {commit})"


def version_option(distribution: str) -> Callable[[Command], Command]:
    """`--version` for the component `distribution`."""

    def show(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        if value and not context.resilient_parsing:
            click.echo(version_text(distribution))
            context.exit()

    return click.option(
        "--version", is_flag=True, expose_value=False, is_eager=True, callback=show, help="Show version and commit."
    )


def run_command_line(command: click.Command, program: str, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `command` and exit: 64 for usage, an error's own code with its message, 130 for Ctrl-C. No tracebacks.

    A command may return an int: the exit code. An error outside our tree is a bug of ours and keeps its traceback.
    """
    from tunewright.contracts.errors import TunewrightError

    stdout = sys.stdout
    try:
        code = command.main(args=arguments, prog_name=program, standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.UsageError as error:
        error.show()
        code = EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = EXIT_USAGE
    except TunewrightError as error:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {error}", err=True)
        code = error.exit_code
    except SystemExit as ended:
        # Where the reader of our output went away (`| head`) click ends with 1 and puts a quieter stdout in place: no
        # fault of anyone.
        if sys.stdout is stdout:
            raise
        code = 0 if ended.code == 1 else ended.code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # As above, found out at the last moment. Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code if isinstance(code, int) else 0)
