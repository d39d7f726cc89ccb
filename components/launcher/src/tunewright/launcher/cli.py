"""The launcher's command line."""

from __future__ import annotations

import click

from tunewright.contracts.command_line import LazyGroup, run_command_line, version_option

_COMMANDS = "tunewright.launcher.commands"

_LAZY = {
    "launch": (f"{_COMMANDS}.launch:launch", "Launch an experiment, follow it to its end, record it."),
    "sweep": (f"{_COMMANDS}.sweep:sweep", "Run an experiment for each point of a grid; compare the results."),
    "plan": (f"{_COMMANDS}.plan:plan", "Show exactly what would be sent; change nothing."),
    "list": (f"{_COMMANDS}.runs:list_runs", "List the runs and their states."),
    "status": (f"{_COMMANDS}.runs:status", "Show one run."),
    "wait": (f"{_COMMANDS}.runs:wait", "Wait for a run's end; exit with its code."),
    "logs": (f"{_COMMANDS}.runs:logs", "Print what a run wrote."),
    "stop": (f"{_COMMANDS}.runs:stop", "Stop a run, its whole process tree."),
    "events": (f"{_COMMANDS}.runs:events", "Show every change of a run's state."),
    "verify": (f"{_COMMANDS}.verify:verify", "Check a run's record and every file it left."),
    "reproduce": (f"{_COMMANDS}.reproduce:reproduce", "Run it again from its record alone, and compare."),
    "plugins": (f"{_COMMANDS}.plugins:plugins", "List the installed plugins, clusters and variants."),
    "doctor": (f"{_COMMANDS}.doctor:doctor", "Show what this machine can do."),
    "schema": (f"{_COMMANDS}.schema:schema", "Print the JSON Schema of the experiment file."),
}


@click.group(cls=LazyGroup, lazy_commands=_LAZY, context_settings={"help_option_names": ["-h", "--help"]})
@version_option("tunewright-launcher")
def launcher() -> None:
    """From an experiment file to a running job on any cluster, watched to its end and recorded."""


def main() -> None:
    """Run the command line and exit."""
    run_command_line(launcher, "launcher")


if __name__ == "__main__":
    main()
