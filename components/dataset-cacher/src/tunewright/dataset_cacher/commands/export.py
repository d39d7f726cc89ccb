"""`dataset-cacher export`."""

from __future__ import annotations

from pathlib import Path

import click

from tunewright.contracts.datasets import verify_cache
from tunewright.contracts.files import json_text
from tunewright.dataset_cacher.commands.options import as_json, cache_root, digest_argument, open_cache


@click.command()
@digest_argument
@click.option("--format", "export_format", type=click.Choice(["jsonl", "parquet", "hf", "olmo"]), required=True,
              help="One object a line, a parquet file, a directory for `datasets.load_from_disk`, OLMo-core's numpy "
              "memory maps.")  # fmt: skip
@click.option("--to", "target", type=click.Path(path_type=Path), required=True,
              help="File, or directory for `hf` and `olmo`.")  # fmt: skip
@click.option("--chunk-mib", type=click.IntRange(min=1), default=1024, show_default=True,
              help="MiB of token ids in each file of `olmo`.")  # fmt: skip
@cache_root
@as_json
def export(
    digest: str, export_format: str, target: Path, chunk_mib: int, cache_root: str | None, as_json: bool
) -> None:
    """Write the cache DIGEST for others: `input_ids` and `labels`, -100 where a token does not count."""
    from tunewright.dataset_cacher.exchange.exporting import export_cache

    cache, manifest = open_cache(digest, cache_root)
    verify_cache(cache)
    export_cache(cache, manifest, export_format, target, chunk_mib << 20)
    if as_json:
        path = str(target.absolute())
        document = {"digest": manifest.digest, "format": export_format, "path": path, "rows": manifest.rows}
        click.echo(json_text(document), nl=False)
    else:
        click.echo(f"{manifest.rows:,} rows written to {target}", err=True)
