"""`dataset-cacher show`."""

from __future__ import annotations

import sys
from typing import Literal

import click

from tunewright.contracts.datasets import read_manifest
from tunewright.contracts.errors import CacheCorrupted, NotFound
from tunewright.contracts.files import json_text
from tunewright.dataset_cacher.commands.options import as_json, cache_root, digest_argument, open_store


@click.command()
@digest_argument
@click.option("--row", type=click.IntRange(min=0), default=0, show_default=True, help="Which row of the cache, from 0.")
@click.option(
    "--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True,
    help="Trained tokens in bold green; `auto` does so on a terminal.",
)  # fmt: skip
@cache_root
@as_json
def show(
    digest: str, row: int, color: Literal["auto", "always", "never"], cache_root: str | None, as_json: bool
) -> None:
    """Print a conversation of the cache DIGEST as the model will see it, trained tokens coloured."""
    from tunewright.dataset_cacher.shards import read_row
    from tunewright.dataset_cacher.showing import open_tokenizer, parts_of

    store = open_store(cache_root)
    cache = store.path_of(store.resolve(digest))
    manifest = read_manifest(cache)
    if row >= manifest.rows:
        raise NotFound(f"row {row}: the cache has {manifest.rows} rows, 0 to {manifest.rows - 1}")
    if problems := [problem for shard in manifest.shards if (problem := shard.problem(cache)) is not None]:
        raise CacheCorrupted("\n".join(problems))
    cached = read_row(cache, manifest, row)
    parts = parts_of(cached, open_tokenizer(cache, manifest))
    if as_json:
        document = {
            "digest": manifest.digest,
            "row": row,
            "source": cached.source,
            "source_row": cached.row,
            "input_ids": cached.ids.tolist(),
            "spans": cached.spans.tolist(),
            "parts": [{"text": part.text, "trained": part.is_trained, "tokens": len(part.ids)} for part in parts],
        }
        click.echo(json_text(document), nl=False)
        return
    is_coloured = color == "always" or (color == "auto" and sys.stdout.isatty())
    texts = [click.style(part.text, fg="green", bold=True) if part.is_trained else part.text for part in parts]
    click.echo("".join(texts if is_coloured else (part.text for part in parts)), color=is_coloured)
    trained = sum(len(part.ids) for part in parts if part.is_trained)
    where = f"row {cached.row} of dataset.mix[{cached.source}]"
    click.echo(f"{where}: {len(cached.ids)} tokens, {trained} of them trained", err=True)
