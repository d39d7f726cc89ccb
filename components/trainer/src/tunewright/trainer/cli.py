"""The trainer's command line. Torch is imported by the commands that train or export, not before."""

from __future__ import annotations

import click

from tunewright.contracts.command_line import LazyGroup, run_command_line, version_option

_COMMANDS = "tunewright.trainer.commands"

_LAZY = {
    "train": (f"{_COMMANDS}.train:train", "Run a job on this node: checkpoints, then a model."),
    "evaluate": (f"{_COMMANDS}.evaluate:evaluate", "Measure the model of a job: loss, exact match, a harness's tasks."),
    "estimate": (f"{_COMMANDS}.estimate:estimate", "Say how much memory and time a training takes, before it starts."),
    "variants": (f"{_COMMANDS}.variants:variants", "List the installed training variants and their options."),
    "export": (f"{_COMMANDS}.export:export", "Turn a checkpoint or a run into a model; merge adapters."),
    "inspect": (
        f"{_COMMANDS}.inspect:inspect_checkpoint",
        "Show what a checkpoint or a model holds; verify its digests.",
    ),
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
