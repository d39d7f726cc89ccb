"""`dataset-cacher stats`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.errors import CacheCorrupted
from tunewright.contracts.files import json_text
from tunewright.dataset_cacher.commands.options import as_json, cache_root, digest_argument, html_page, open_cache

_BAR_CELLS = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


@click.command()
@digest_argument
@html_page
@cache_root
@as_json
def stats(digest: str, page: Path | None, cache_root: str | None, as_json: bool) -> None:
    """Show counts and lengths of the cache DIGEST (six of its digits are enough)."""
    cache, manifest = open_cache(digest, cache_root)
    if (problem := manifest.statistics.problem(cache)) is not None:
        raise CacheCorrupted(problem)
    statistics = json.loads((cache / manifest.statistics.file).read_text(encoding="utf-8"))
    if page is not None:
        _write_page(page, manifest, statistics)
    if as_json:
        click.echo(json_text({"digest": manifest.digest, **statistics}), nl=False)
    elif page is None:
        _print_tables(manifest, statistics)


def _write_page(path: Path, manifest: DatasetManifest, statistics: dict[str, Any]) -> None:
    from tunewright.dataset_cacher.views.pages import write_page
    from tunewright.dataset_cacher.views.statistics_page import render_statistics

    write_page(path, render_statistics(manifest, statistics))
    click.echo(f"{path}: written", err=True)


def _print_tables(manifest: DatasetManifest, statistics: dict[str, Any]) -> None:
    from rich.console import Console

    from tunewright.dataset_cacher.views.statistics_page import lengths_text

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=200)
    template = (manifest.key.get("chat_template") or {}).get("name", "unknown")
    console.print(f"{manifest.digest[:12]}  template {template}, ids {manifest.id_type}")
    console.print(_sources_table(statistics, manifest.sequences_per_example))
    console.print(f"tokens a row: {lengths_text(statistics['length_tokens'])}")
    for line in _histogram(statistics["length_histogram"]):
        console.print(line)
    console.print(_packing_line(statistics))
    for side, numbers in statistics.get("sides", {}).items():
        console.print(_side_line(side, numbers, statistics["rows"] // manifest.sequences_per_example))


def _sources_table(statistics: dict[str, Any], sequences_per_example: int) -> Any:
    """Of preference pairs, pairs are counted, as they are in the source."""
    from rich.table import Table

    table = Table(box=None)
    table.add_column("source")
    table.add_column("format")
    for name in ("rows" if sequences_per_example == 1 else "pairs", "of", "repeated", "tokens", "trained", "cut"):
        table.add_column(name, justify="right")
    table.add_column("dropped")
    for index, source in enumerate(statistics["sources"]):
        table.add_row(*_counts(f"mix[{index}]", source, sequences_per_example))
    if len(statistics["sources"]) > 1:
        table.add_row(*_counts("all", statistics, sequences_per_example))
    return table


def _counts(name: str, source: Mapping[str, Any], sequences_per_example: int) -> list[str]:
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in source["dropped"].items()) or "0"
    num_rows = source["rows"] // sequences_per_example
    numbers = (num_rows, source.get("rows_available"), source.get("rows_repeated"), source["tokens"])
    share = f"{source['trained_tokens'] / source['tokens']:.1%}" if source["tokens"] else "-"
    texts = ["" if number is None else f"{number:,}" for number in numbers]
    return [name, source.get("format", ""), *texts, share, f"{source['truncated']:,}", dropped]


def _histogram(ranges: Sequence[Mapping[str, int]]) -> list[str]:
    """A line for each range of lengths, with a bar of block characters."""
    most = max(one["rows"] for one in ranges)
    return [
        f"{one['from']:>9,} - {one['to']:>9,} {one['rows']:>11,} {_bar(one['rows'] / most)}".rstrip() for one in ranges
    ]


def _bar(share: float) -> str:
    cells, eighths = divmod(round(share * _BAR_CELLS * 8), 8)
    return "█" * cells + _EIGHTHS[eighths].strip()


def _side_line(side: str, numbers: Mapping[str, int], num_pairs: int) -> str:
    mean = numbers["trained_tokens"] / num_pairs
    counts = f"{numbers['tokens']:,} tokens, {numbers['trained_tokens']:,} of them trained"
    return f"{side:>8}: {counts} (mean {mean:,.1f}), {numbers['truncated']:,} cut"


def _packing_line(statistics: Mapping[str, Any]) -> str:
    packing, padding = statistics["packing"], statistics.get("padding")
    text = f"packed: {packing['rows']:,} rows of {packing['row_tokens']:,} tokens, {packing['efficiency']:.1%} full"
    return (
        text if padding is None else f"{text}; padded to the cut they would be {1 - padding['to_max_length']:.1%} full"
    )
