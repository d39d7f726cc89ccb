"""The trainer's command line. Torch is imported by the commands that train, not before."""

from __future__ import annotations

import click

from tunewright.contracts.command_line import LazyGroup, run_command_line, version_option

_COMMANDS = "tunewright.trainer.commands"

_LAZY = {
    "train": (f"{_COMMANDS}.train:train", "Train the job of a job.json: what a cluster runs on each node."),
    "variants": (f"{_COMMANDS}.variants:variants", "List the training variants and their options."),
    "export": (f"{_COMMANDS}.export:export", "Turn a checkpoint or an adapter into a model to load."),
    "inspect": (f"{_COMMANDS}.inspect:inspect", "Show what a checkpoint holds, and verify it."),
}


@click.group(cls=LazyGroup, lazy_commands=_LAZY, context_settings={"help_option_names": ["-h", "--help"]})
@version_option("tunewright-trainer")
def trainer() -> None:
    """From a job to checkpoints and a model."""


def main() -> None:
    """Run the command line and exit."""
    run_command_line(trainer, "trainer")


if __name__ == "__main__":
    main()
