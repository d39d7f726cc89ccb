"""`dataset-cacher gc`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click

from tunewright.contracts.experiment_file import find_home, find_project_root
from tunewright.contracts.files import json_text
from tunewright.dataset_cacher.commands.options import as_json, cache_root, open_store
from tunewright.dataset_cacher.storage.collecting import (
    DAY_SECONDS,
    Kind,
    Limits,
    Verdict,
    age_text,
    judge,
    parse_size,
    size_text,
)
from tunewright.dataset_cacher.storage.directory_store import DirectoryStore
from tunewright.dataset_cacher.storage.store import CacheStore
from tunewright.dataset_cacher.storage.url_store import COPIES_DIRECTORY
from tunewright.dataset_cacher.storage.uses import uses_of


@click.command()
@click.option("--older-than", "days", type=click.FloatRange(min=0), metavar="DAYS",
              help="Remove what was not used for so long.")  # fmt: skip
@click.option("--max-bytes", "size", metavar="SIZE",
              help="Remove the least recently used until the rest fits: 500MB, 1.5TiB.")  # fmt: skip
@click.option("--finished-runs", is_flag=True, help="Also what only the records of finished runs refer to.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@cache_root
@as_json
def gc(
    days: float | None, size: str | None, finished_runs: bool, dry_run: bool, cache_root: str | None, as_json: bool
) -> None:
    """Remove caches by age and size, and what killed preparers have left. Never what a run uses.

    Without --older-than and --max-bytes only what was never whole goes.
    """
    limits = Limits(
        older_than_seconds=None if days is None else days * DAY_SECONDS,
        max_bytes=None if size is None else parse_size(size),
        keeps_finished=not finished_runs,
    )
    now = time.time()
    verdicts = []
    for store, judged in _judged(open_store(cache_root), limits, now):
        verdicts += [_carry_out(one, store, dry_run) if one.goes else one for one in judged]
    if as_json:
        gone = sum(one.bytes for one in verdicts if one.goes)
        document = {"dry_run": dry_run, "bytes_freed": gone, "verdicts": [asdict(one) for one in verdicts]}
        click.echo(json_text(document), nl=False)
    else:
        _print_table(verdicts, dry_run, now)


def _judged(store: CacheStore, limits: Limits, now: float) -> list[tuple[CacheStore, list[Verdict]]]:
    """What becomes of everything in a store, and of the copies of caches at URLs beside it."""
    home = find_home(find_project_root(Path.cwd() / "."))
    stores: list[tuple[Kind, CacheStore]] = [("cache", store)]
    if isinstance(store, DirectoryStore):
        stores.append(("copy", DirectoryStore(store.root / COPIES_DIRECTORY)))
    caches = [(kind, one, where) for kind, where in stores for one in where.stored()]
    leftovers = [(one, where) for _, where in stores for one in where.leftovers()]
    places = [where for *_, where in caches] + [where for _, where in leftovers]
    verdicts = judge(
        [(kind, one) for kind, one, _ in caches], [one for one, _ in leftovers], uses_of(home), limits, now
    )
    pairs = list(zip(places, verdicts, strict=True))
    return [(where, [verdict for place, verdict in pairs if place is where]) for _, where in stores]


def _carry_out(verdict: Verdict, store: CacheStore, dry_run: bool) -> Verdict:
    if dry_run:
        is_gone = store.is_free(verdict.digest)
    elif verdict.kind in ("work", "temporary"):
        is_gone = store.clear(verdict.digest, with_work=verdict.kind == "work")
    else:
        is_gone = store.remove(verdict.digest)
    return verdict if is_gone else replace(verdict, goes=False, reason="a preparer is at it")


def _print_table(verdicts: Sequence[Verdict], dry_run: bool, now: float) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    table = Table("", "cache", "kind", "size", "last used", "why", box=None)
    for one in sorted(verdicts, key=lambda one: not one.goes):
        verb = ("would go" if dry_run else "gone") if one.goes else "stays"
        table.add_row(verb, one.digest[:12], one.kind, size_text(one.bytes), age_text(now - one.used_at), one.reason)
    if verdicts:
        console.print(table)
    freed, kept = (sum(one.bytes for one in verdicts if one.goes is goes) for goes in (True, False))
    click.echo(f"{size_text(freed)} {'would be freed' if dry_run else 'freed'}, {size_text(kept)} stay", err=True)
