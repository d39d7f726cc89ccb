"""`dataset-cacher prepare` and `dataset-cacher key`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Literal

import click

from tunewright.contracts.datasets import DatasetRequest
from tunewright.contracts.experiment_file import LoadedExperiment, resolve_model
from tunewright.contracts.files import json_text
from tunewright.dataset_cacher.commands.options import (
    as_json,
    cache_root,
    experiment_options,
    load,
    paranoid,
    root_of,
    stage_option,
)
from tunewright.dataset_cacher.provide import LOCAL, Means, Provided, provide_dataset
from tunewright.dataset_cacher.quick_hits import print_answer, remember
from tunewright.dataset_cacher.watching import watched_of

QUICK_SECONDS = 1.0
"""A hit that took longer may have seen files that changed since."""


@click.command()
@experiment_options
@stage_option
@cache_root
@paranoid
@click.option("--executor", type=click.Choice(["local", "ray"]), default="local", show_default=True,
              help="Who encodes: this machine, or the Ray cluster at RAY_ADDRESS.")  # fmt: skip
@click.option("--processes", type=click.IntRange(min=1), help="At most so many on this machine; one for each core.")
@as_json
def prepare(
    experiment: Path,
    assignments: tuple[str, ...],
    stage: str | None,
    cache_root: str | None,
    paranoid: bool,
    executor: Literal["local", "ray"],
    processes: int | None,
    as_json: bool,
) -> None:
    """Prepare the dataset of EXPERIMENT, or find it where it was prepared before. Prints its digest."""
    started = time.monotonic()
    loaded = load(experiment, assignments, stage)
    provided = provide_experiment(loaded, cache_root, False, paranoid, Means(executor, processes))
    document, seconds = {**provided.dataset.to_document(), "hit": provided.is_hit}, time.monotonic() - started
    print_answer(document, seconds, as_json)
    if provided.is_hit and provided.manifest is not None and seconds < QUICK_SECONDS:
        watched = watched_of(loaded, provided.inputs, provided.manifest, provided.dataset.path)
        if watched is not None:
            remember(sys.argv[1:], document, watched)


@click.command()
@experiment_options
@stage_option
@cache_root
@paranoid
@as_json
def key(
    experiment: Path,
    assignments: tuple[str, ...],
    stage: str | None,
    cache_root: str | None,
    paranoid: bool,
    as_json: bool,
) -> None:
    """Show the digest of EXPERIMENT's dataset. With `--json` also everything it covers. Writes nothing."""
    loaded = load(experiment, assignments, stage)
    provided = provide_experiment(loaded, cache_root, plan_only=True, is_paranoid=paranoid)
    if as_json:
        is_prepared = provided.is_hit
        document = {"digest": provided.dataset.digest, "prepared": is_prepared, "key": provided.key}
        click.echo(json_text(document), nl=False)
    else:
        click.echo(provided.dataset.digest)


def provide_experiment(
    loaded: LoadedExperiment,
    cache_root: str | None,
    plan_only: bool,
    is_paranoid: bool = False,
    means: Means = LOCAL,
) -> Provided:
    """The dataset of an experiment; with `plan_only`, only named."""
    # The weights do not decide the tokens: their digest would only cost time.
    model = resolve_model(
        loaded.dataset_model, loaded.project_root, loaded.home, with_digest=False, allow_adapters=True
    )
    request = DatasetRequest(
        dataset=loaded.spec.dataset,
        tokenizer=model.name_or_path,
        tokenizer_revision=model.revision,
        chat_template=loaded.dataset_model.chat_template,
        seed=loaded.spec.seed,
        project_root=str(loaded.project_root),
        plan_only=plan_only,
    )
    return provide_dataset(request, root_of(cache_root, loaded), is_paranoid, means)
