"""The env-builder's command line."""

from __future__ import annotations

import click

from tunewright.contracts.command_line import LazyGroup, run_command_line, version_option

_COMMANDS = "tunewright.env_builder.commands"

_MODELS = "tunewright.env_builder.models.command"

_LAZY = {
    "check": (f"{_COMMANDS}.check:check", "Show what speaks against building here."),
    "build": (f"{_COMMANDS}.build:build", "Build the environment, or find it where it was built before."),
    "verify": (f"{_COMMANDS}.verify:verify", "Prove that a built environment is what its record and lock say."),
    "list": (f"{_COMMANDS}.listing:list_environments", "List the environments that are built."),
    "push": (f"{_COMMANDS}.push:push", "Push an image to a registry."),
    "save": (f"{_COMMANDS}.archives:save", "Write an image to an archive, for machines that reach nothing."),
    "load": (f"{_COMMANDS}.archives:load", "Load an image from such an archive."),
    "compose": (f"{_COMMANDS}.compose:compose", "Write a compose file that mirrors a run's job."),
    "fetch-model": (f"{_MODELS}:fetch_model", "Fetch a model of the hub at a commit, verified."),
    "list-models": (f"{_MODELS}:list_models_command", "List the models that were fetched."),
    "verify-model": (f"{_MODELS}:verify_model_command", "Read every byte of a fetched model again."),
    "clean": (f"{_COMMANDS}.clean:clean", "Remove environments by age and size."),
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
