"""The dataset-cacher's command line."""

from __future__ import annotations

import gc
import os

import click

from tunewright.contracts.command_line import LazyGroup, run_command_line, version_option

_COMMANDS = "tunewright.dataset_cacher.commands"

_LAZY = {
    "prepare": (f"{_COMMANDS}.prepare:prepare", "Prepare an experiment's dataset, or find it prepared."),
    "key": (f"{_COMMANDS}.prepare:key", "Show the digest of an experiment's dataset; prepare nothing."),
    "explain": (f"{_COMMANDS}.explain:explain", "Say what makes the digests of two datasets differ."),
    "list": (f"{_COMMANDS}.caches:list_caches", "List the prepared datasets."),
    "stats": (f"{_COMMANDS}.stats:stats", "Show counts and lengths of one, as tables or as a page with plots."),
    "show": (f"{_COMMANDS}.show:show", "Print conversations with the trained tokens coloured, or make a page of them."),
    "verify": (f"{_COMMANDS}.caches:verify", "Compare every byte of one with its manifest."),
    "gc": (f"{_COMMANDS}.gc:gc", "Remove caches by age and size, never what a run uses."),
    "export": (
        f"{_COMMANDS}.export:export",
        "Write one as jsonl, parquet, a Hugging Face dataset or OLMo-core's arrays.",
    ),
    "import": (f"{_COMMANDS}.import_cache:import_cache", "Take over a cache directory of open-instruct."),
}


@click.group(cls=LazyGroup, lazy_commands=_LAZY, context_settings={"help_option_names": ["-h", "--help"]})
@version_option("tunewright-dataset-cacher")
def dataset_cacher() -> None:
    """From a mix of conversations, a tokenizer and a chat template to a verified cache of tokens."""


COLLECTED_OBJECTS = 200_000
"""New objects after which Python looks for cycles among them: rows have none. Modules that load make between 100,000
and 200,000 that stay: at 50,000 they were looked through twice, for 0.04 s."""


def main() -> None:
    """Run the command line and exit."""
    gc.set_threshold(COLLECTED_OBJECTS, 20, 100)
    # Our specs take no plugins of pydantic's; looking for some reads the metadata of every installed distribution.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        run_command_line(dataset_cacher, "dataset-cacher")
    finally:
        gc.freeze()  # at its end Python would look through all modules for cycles: a tenth of a second, for nothing


if __name__ == "__main__":
    main()
