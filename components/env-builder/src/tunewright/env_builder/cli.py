"""The env-builder's command line."""

from __future__ import annotations

import click

from tunewright.contracts.command_line import LazyGroup, run_command_line, version_option

_COMMANDS = "tunewright.env_builder.commands"

_LAZY = {
    "check": (f"{_COMMANDS}:check", "Show what speaks against building here."),
    "build": (f"{_COMMANDS}:build", "Build the environment, or find it where it was built before."),
    "verify": (f"{_COMMANDS}:verify", "Compare every byte of a built environment with its record."),
    "list": (f"{_COMMANDS}:list_environments", "List the environments that are built."),
}


@click.group(cls=LazyGroup, lazy_commands=_LAZY, context_settings={"help_option_names": ["-h", "--help"]})
@version_option("tunewright-env-builder")
def env_builder() -> None:
    """From a commit to an environment: cached, verified, identified by digest."""


def main() -> None:
    """Run the command line and exit."""
    run_command_line(env_builder, "env-builder")


if __name__ == "__main__":
    main()
