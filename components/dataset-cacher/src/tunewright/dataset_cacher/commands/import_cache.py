"""`dataset-cacher import`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.files import json_text, sha256_of_file
from tunewright.dataset_cacher.commands.options import as_json, cache_root, open_store

if TYPE_CHECKING:
    from tunewright.dataset_cacher.exchange.importing import Import
    from tunewright.dataset_cacher.storage.store import CacheStore


@click.command("import")
@click.argument("directory", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--from", "made_by", type=click.Choice(["open-instruct"]), required=True, help="What made it.")
@click.option(
    "--tokenizer",
    type=click.Path(path_type=Path),
    help="Directory of the tokenizer that gave the ids: kept with the cache, so that `show` can read it.",
)
@click.option("--max-length-tokens", type=click.IntRange(min=1), metavar="TOKENS",
              help="The most a row may have, and the size of a packed row; as open-instruct's config.json says, else "
              "the longest row.")  # fmt: skip
@cache_root
@as_json
def import_cache(
    directory: Path, made_by: str, tokenizer: Path | None, max_length_tokens: int | None, cache_root: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Make a cache of ours from the cache directory PATH of another program. Prints its digest."""
    from tunewright.dataset_cacher.exchange.importing import measure_import
    from tunewright.dataset_cacher.exchange.open_instruct_cache import open_directory
    from tunewright.dataset_cacher.tokens.tokenizer_files import read_tokenizer_files

    store = open_store(cache_root)
    files = None if tokenizer is None else read_tokenizer_files(tokenizer, sha256_of_file)
    imported = measure_import(open_directory(directory), files, max_length_tokens)
    manifest, is_hit = _build(store, imported)
    if as_json:
        counts = {name: getattr(manifest, name) for name in ("rows", "tokens", "trained_tokens", "dropped")}
        path = store.location_of(manifest.digest)
        click.echo(json_text({"digest": manifest.digest, "path": path, **counts, "hit": is_hit}), nl=False)
        return
    for reason, count in manifest.dropped.items():
        click.echo(f"{count:,} rows are left out: {reason}", err=True)
    verb = "found" if is_hit else f"imported from {made_by}"
    click.echo(f"{verb}: {manifest.rows:,} rows, {manifest.tokens:,} tokens, {manifest.trained_tokens:,} of them "
               f"trained; {store.location_of(manifest.digest)}", err=True)  # fmt: skip
    click.echo(manifest.digest)


def _build(store: CacheStore, imported: Import) -> tuple[DatasetManifest, bool]:
    """Make the cache, or take the one that is there or that another process made while we waited for it."""
    from tunewright.dataset_cacher.exchange import importing

    def wait(who: str) -> None:
        click.echo(f"dataset {imported.digest[:12]}: another process imports it ({who}); waiting", err=True)

    with store.lock(imported.digest, wait):
        if (manifest := store.find(imported.digest)) is not None:
            return manifest, True
        return store.build(imported.digest, lambda directory, _work: importing.import_cache(imported, directory)), False
