"""`dataset-cacher show`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from tunewright.contracts.datasets import DatasetManifest
from tunewright.contracts.errors import UsageError
from tunewright.contracts.files import json_text
from tunewright.contracts.spec import canonical_json
from tunewright.dataset_cacher.commands.options import as_json, cache_root, digest_argument, html_page, open_cache

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from tunewright.dataset_cacher.preparation.shards import CachedRow

NumberedRows = Sequence[tuple[int, "CachedRow"]]


@click.command()
@digest_argument
@click.option("--row", type=click.IntRange(min=0), default=0, show_default=True, help="Which row of the cache, from 0.")
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="How many rows from there on.")
@click.option("--tokens", "with_tokens", is_flag=True, help="Each token with its id.")
@click.option(
    "--color", type=click.Choice(["auto", "always", "never"]), default="auto", show_default=True,
    help="Trained tokens in bold green; `auto` does so on a terminal.",
)  # fmt: skip
@html_page
@cache_root
@as_json
def show(
    digest: str,
    row: int,
    count: int,
    with_tokens: bool,
    color: Literal["auto", "always", "never"],
    page: Path | None,
    cache_root: str | None,
    as_json: bool,
) -> None:
    """Print conversations of the cache DIGEST as the model will see them, trained tokens coloured.

    With `--json` and several rows: a JSON line for each.
    """
    from tunewright.dataset_cacher.views.showing import open_tokenizer, read_rows

    if as_json and page is not None:
        raise UsageError("--json and --html: give one of them")
    cache, manifest = open_cache(digest, cache_root)
    rows = list(enumerate(read_rows(cache, manifest, row, count), row))
    tokenizer = open_tokenizer(cache, manifest)
    if page is not None:
        _write_page(page, manifest, rows, tokenizer, with_tokens)
    elif as_json:
        documents = [_document(manifest, number, one, tokenizer, with_tokens) for number, one in rows]
        lines = [json_text(documents[0])] if count == 1 else [f"{canonical_json(one)}\n" for one in documents]
        click.echo("".join(lines), nl=False)
    else:
        for number, one in rows:
            _print_row(manifest, number, one, tokenizer, with_tokens, color)


def _write_page(
    path: Path, manifest: DatasetManifest, rows: NumberedRows, tokenizer: Tokenizer, with_ids: bool
) -> None:
    from tunewright.dataset_cacher.views.pages import write_page
    from tunewright.dataset_cacher.views.row_page import render_rows
    from tunewright.dataset_cacher.views.showing import tokens_of

    shown = [(number, row, tokens_of(row, tokenizer)) for number, row in rows]
    write_page(path, render_rows(manifest.digest, shown, with_ids, manifest.sequences_per_example))
    click.echo(f"{path}: written", err=True)


def _document(
    manifest: DatasetManifest, number: int, row: CachedRow, tokenizer: Tokenizer, with_tokens: bool
) -> dict[str, Any]:
    from tunewright.dataset_cacher.chat.pairs import side_of
    from tunewright.dataset_cacher.views.showing import parts_of, tokens_of

    parts, side = parts_of(row, tokenizer), side_of(number, manifest.sequences_per_example)
    document = {
        "digest": manifest.digest,
        "row": number,
        **({} if side is None else {"side": side}),
        "source": row.source,
        "source_row": row.row,
        "input_ids": row.ids.tolist(),
        "spans": row.spans.tolist(),
        "parts": [{"text": part.text, "trained": part.is_trained, "tokens": len(part.ids)} for part in parts],
    }
    if with_tokens:
        document["tokens"] = [
            {"id": one.id, "text": one.text, "trained": one.is_trained, "special": one.is_special}
            for one in tokens_of(row, tokenizer)
        ]
    return document


def _print_row(
    manifest: DatasetManifest,
    number: int,
    row: CachedRow,
    tokenizer: Tokenizer,
    with_tokens: bool,
    color: Literal["auto", "always", "never"],
) -> None:
    """The row's text on stdout, what it is on stderr. What a terminal would obey in a text is only drawn there."""
    from tunewright.dataset_cacher.chat.pairs import side_of
    from tunewright.dataset_cacher.views.showing import without_controls

    is_coloured = color == "always" or (color == "auto" and sys.stdout.isatty())
    clean = without_controls if is_coloured or sys.stdout.isatty() else str
    text = (_token_text if with_tokens else _part_text)(row, tokenizer, is_coloured, clean)
    click.echo(text, color=True)  # whether there are colours is decided: click would take them out of a pipe
    trained = int(row.spans[1::2].sum()) - int(row.spans[::2].sum())
    side = side_of(number, manifest.sequences_per_example)
    where = f"{'' if side is None else f'{side} of '}row {row.row} of dataset.mix[{row.source}]"
    click.echo(f"row {number} ({where}): {len(row.ids)} tokens, {trained} of them trained", err=True)


def _part_text(row: CachedRow, tokenizer: Tokenizer, is_coloured: bool, clean: Any) -> str:
    from tunewright.dataset_cacher.views.showing import parts_of

    parts = [(clean(part.text), part.is_trained) for part in parts_of(row, tokenizer)]
    return "".join(
        click.style(text, fg="green", bold=True) if is_coloured and is_trained else text for text, is_trained in parts
    )


def _token_text(row: CachedRow, tokenizer: Tokenizer, is_coloured: bool, clean: Any) -> str:
    """Each token with its id behind it, every other one shaded; without colours its id alone tells where it ends."""
    from tunewright.dataset_cacher.views.showing import tokens_of

    shown = []
    for place, token in enumerate(tokens_of(row, tokenizer)):
        text, number = clean(token.text), f"[{token.id}]"
        if is_coloured:
            shade = 236 if place % 2 else None
            style = {"fg": "green", "bold": True} if token.is_trained else {"fg": "magenta"} if token.is_special else {}
            text, number = click.style(text, bg=shade, **style), click.style(number, dim=True, bg=shade)
        shown.append(text + number)
    return "".join(shown)
