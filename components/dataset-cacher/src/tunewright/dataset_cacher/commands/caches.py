"""`dataset-cacher list`, `stats` and `verify`."""

from __future__ import annotations

import json
from typing import Any

import click

from tunewright.contracts.datasets import DatasetManifest, read_manifest, verify_cache
from tunewright.contracts.errors import CacheCorrupted
from tunewright.contracts.files import json_text
from tunewright.dataset_cacher.commands.options import as_json, cache_root, digest_argument, open_store


@click.command("list")
@cache_root
@as_json
def list_caches(cache_root: str | None, as_json: bool) -> None:
    """List the prepared datasets."""
    store = open_store(cache_root)
    found, broken = [], []
    for digest in store.digests():
        try:
            found.append(_summary(read_manifest(store.path_of(digest))))
        except CacheCorrupted as error:
            broken.append(str(error))
    if as_json:
        click.echo(json_text(found), nl=False)
    else:
        for one in found:
            formats = ", ".join(one["formats"])
            counts = f"{one['rows']:>10,} rows {one['tokens']:>14,} tokens {one['bytes'] / 1e6:>9,.1f} MB"
            click.echo(f"{one['digest'][:12]} {counts}  {one['chat_template']}, {formats}")
    for message in broken:
        click.echo(message, err=True)


def _summary(manifest: DatasetManifest) -> dict[str, Any]:
    return {
        "digest": manifest.digest,
        "rows": manifest.rows,
        "tokens": manifest.tokens,
        "trained_tokens": manifest.trained_tokens,
        "bytes": sum(record.bytes for record in manifest.files),
        "chat_template": manifest.key["chat_template"]["name"],
        "max_length_tokens": manifest.key["max_length_tokens"],
        "formats": [source["format"] for source in manifest.sources],
    }


@click.command()
@digest_argument
@cache_root
@as_json
def stats(digest: str, cache_root: str | None, as_json: bool) -> None:
    """Show counts and lengths of the cache DIGEST (six of its digits are enough)."""
    store = open_store(cache_root)
    cache = store.path_of(store.resolve(digest))
    manifest = read_manifest(cache)
    if (problem := manifest.statistics.problem(cache)) is not None:
        raise CacheCorrupted(problem)
    statistics = json.loads((cache / manifest.statistics.file).read_text(encoding="utf-8"))
    if as_json:
        click.echo(json_text({"digest": manifest.digest, **statistics}), nl=False)
    else:
        _print_tables(manifest, statistics)


def _print_tables(manifest: DatasetManifest, statistics: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(f"{manifest.digest[:12]}  template {manifest.key['chat_template']['name']}, ids {manifest.id_type}")
    table = Table("", "format", "rows", "of", "repeated", "tokens", "trained", "cut", "dropped", box=None)
    for index, source in enumerate(statistics["sources"]):
        table.add_row(f"mix[{index}]", source["format"], *_counts(source))
    if len(statistics["sources"]) > 1:
        table.add_row("all", "", *_counts(statistics))
    console.print(table)
    lengths, packing = statistics["length_tokens"], statistics["packing"]
    console.print("tokens a row: " + ", ".join(f"{name} {value:,}" for name, value in lengths.items()))
    most = max(one["rows"] for one in statistics["length_histogram"])
    for one in statistics["length_histogram"]:
        bar = "█" * max(1, round(40 * one["rows"] / most))
        console.print(f"{one['from']:>9,} - {one['to']:>9,} {one['rows']:>9,} {bar}")
    where = f"{packing['rows']:,} rows of {packing['row_tokens']:,} tokens"
    console.print(f"packed: {where}, {packing['efficiency']:.1%} full")


def _counts(source: dict[str, Any]) -> list[str]:
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in source["dropped"].items()) or "0"
    numbers = (source["rows"], source.get("rows_available"), source.get("rows_repeated"), source["tokens"])
    share = f"{source['trained_tokens'] / source['tokens']:.1%}" if source["tokens"] else "-"
    texts = ["" if number is None else f"{number:,}" for number in numbers]
    return [*texts, share, f"{source['truncated']:,}", dropped]


@click.command()
@digest_argument
@cache_root
@as_json
def verify(digest: str, cache_root: str | None, as_json: bool) -> None:
    """Compare every byte of the cache DIGEST with its manifest. Exit code 65, naming the file, where one differs."""
    store = open_store(cache_root)
    manifest = verify_cache(store.path_of(store.resolve(digest)))
    size = sum(record.bytes for record in manifest.files)
    if as_json:
        document = {"digest": manifest.digest, "whole": True, "files": len(manifest.files), "bytes": size}
        click.echo(json_text(document), nl=False)
    else:
        click.echo(f"{manifest.digest}: whole, {len(manifest.files)} files, {size:,} bytes")
