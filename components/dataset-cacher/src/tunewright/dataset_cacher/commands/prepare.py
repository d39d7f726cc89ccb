"""`dataset-cacher prepare` and `dataset-cacher key`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from tunewright.contracts.datasets import DatasetRequest
from tunewright.contracts.experiment_file import resolve_model
from tunewright.contracts.files import json_text
from tunewright.dataset_cacher.commands.options import as_json, cache_root, experiment_options, load, root_of
from tunewright.dataset_cacher.provide import Provided, provide_dataset


@click.command()
@experiment_options
@cache_root
@as_json
def prepare(experiment: Path, assignments: tuple[str, ...], cache_root: str | None, as_json: bool) -> None:
    """Prepare the dataset of EXPERIMENT, or find it where it was prepared before. Prints its digest."""
    started = time.monotonic()
    provided = _provide(experiment, assignments, cache_root, plan_only=False)
    dataset, seconds = provided.dataset, time.monotonic() - started
    if as_json:
        document = {**dataset.to_document(), "hit": provided.is_hit, "seconds": round(seconds, 3)}
        click.echo(json_text(document), nl=False)
        return
    verb = "found" if provided.is_hit else "prepared"
    counts = f"{dataset.rows:,} rows, {dataset.tokens:,} tokens, {dataset.trained_tokens:,} of them trained"
    click.echo(f"{verb} in {seconds:.1f} s: {counts}; {dataset.path}", err=True)
    click.echo(dataset.digest)


@click.command()
@experiment_options
@cache_root
@as_json
def key(experiment: Path, assignments: tuple[str, ...], cache_root: str | None, as_json: bool) -> None:
    """Show the digest of EXPERIMENT's dataset. With `--json` also everything it covers. Writes nothing."""
    provided = _provide(experiment, assignments, cache_root, plan_only=True)
    if as_json:
        is_prepared = provided.is_hit
        document = {"digest": provided.dataset.digest, "prepared": is_prepared, "key": provided.key}
        click.echo(json_text(document), nl=False)
    else:
        click.echo(provided.dataset.digest)


def _provide(experiment: Path, assignments: tuple[str, ...], cache_root: str | None, plan_only: bool) -> Provided:
    loaded = load(experiment, assignments)
    # The weights do not decide the tokens: their digest would only cost time.
    model = resolve_model(loaded.spec.model, loaded.project_root, loaded.home, with_digest=False)
    request = DatasetRequest(
        dataset=loaded.spec.dataset,
        tokenizer=model.name_or_path,
        tokenizer_revision=model.revision,
        chat_template=loaded.spec.model.chat_template,
        seed=loaded.spec.seed,
        project_root=str(loaded.project_root),
        plan_only=plan_only,
    )
    return provide_dataset(request, root_of(cache_root, loaded))
