"""`dataset-cacher list` and `verify`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import click

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.errors import CacheCorrupted, NotFound
from tunewright.contracts.files import json_text
from tunewright.dataset_cacher.commands.options import as_json, cache_root, digest_argument, open_store
from tunewright.dataset_cacher.storage.collecting import age_text, size_text
from tunewright.dataset_cacher.storage.store import StoredCache

_PARALLEL_READS = 8


@click.command("list")
@cache_root
@as_json
def list_caches(cache_root: str | None, as_json: bool) -> None:
    """List the prepared datasets: size, rows, tokens, age, and when each was used last."""
    store = open_store(cache_root)

    def read(one: StoredCache) -> DatasetManifest | str | None:
        try:
            return store.read_manifest(one.digest)
        except CacheCorrupted as error:
            return str(error)
        except NotFound:  # removed meanwhile
            return None

    whole = [one for one in store.stored() if one.is_whole]
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        manifests = list(pool.map(read, whole))
    pairs = zip(whole, manifests, strict=True)
    found = [_summary(one, manifest) for one, manifest in pairs if isinstance(manifest, DatasetManifest)]
    if as_json:
        click.echo(json_text(found), nl=False)
    else:
        _print_table(found, whole)
    for message in manifests:
        if isinstance(message, str):
            click.echo(message, err=True)


def _summary(stored: StoredCache, manifest: DatasetManifest) -> dict[str, Any]:
    key = manifest.key  # of an imported cache it has other fields
    template = key.get("chat_template")
    return {
        "digest": manifest.digest,
        "rows": manifest.rows,
        "tokens": manifest.tokens,
        "trained_tokens": manifest.trained_tokens,
        "bytes": stored.bytes,
        "made_at": _iso(stored.made_at),
        "used_at": _iso(stored.used_at),
        "chat_template": template.get("name") if isinstance(template, dict) else None,
        "max_length_tokens": key.get("max_length_tokens"),
        "formats": [source.get("format") for source in manifest.sources],
    }


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _print_table(found: Sequence[dict[str, Any]], stored: Sequence[StoredCache]) -> None:
    from rich.console import Console
    from rich.table import Table

    if not found:
        return
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    table = Table("cache", box=None)
    for name in ("rows", "tokens", "size", "age", "last used"):
        table.add_column(name, justify="right")
    table.add_column("template")
    table.add_column("formats")
    now, times = time.time(), {one.digest: one for one in stored}
    for one in found:
        when = times[one["digest"]]
        ages = age_text(now - when.made_at), age_text(now - when.used_at)
        formats = ", ".join(dict.fromkeys(filter(None, one["formats"])))
        counts = f"{one['rows']:,}", f"{one['tokens']:,}", size_text(one["bytes"])
        table.add_row(one["digest"][:12], *counts, *ages, one["chat_template"] or "", formats)
    console.print(table)


@click.command()
@digest_argument
@cache_root
@as_json
def verify(digest: str, cache_root: str | None, as_json: bool) -> None:
    """Compare every byte of the cache DIGEST with its manifest. Exit code 65, naming the file, where one differs."""
    store = open_store(cache_root)
    manifest = store.verify(store.resolve(digest))
    size = sum(record.bytes for record in manifest.files)
    if as_json:
        document = {"digest": manifest.digest, "whole": True, "files": len(manifest.files), "bytes": size}
        click.echo(json_text(document), nl=False)
    else:
        click.echo(f"{manifest.digest}: whole, {len(manifest.files)} files, {size:,} bytes")
