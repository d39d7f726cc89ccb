"""Rows of a cache as a page: trained tokens green, special tokens marked, id and position where the pointer is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunewright.dataset_cacher.chat.pairs import side_of
from tunewright.dataset_cacher.preparation.shards import CachedRow
from tunewright.dataset_cacher.views.pages import render_page
from tunewright.dataset_cacher.views.showing import Token, without_controls

# `pre-wrap` shows line breaks and runs of spaces as they are: no white space may stand between the tokens.
_PAGE = """{% extends "frame" %}
{% block style %}
.row { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); border-radius: 6px;
  padding: .7rem;  font-family: ui-monospace, monospace; font-size: .9rem; }
.row span:nth-child(even) { background: var(--shade); }
.row .trained { color: var(--good); font-weight: 600; } .row .trained:nth-child(even) { background: var(--good-back); }
.row .special { color: var(--special); border: 1px solid var(--special); border-radius: 3px; }
.row .special.trained { border-color: var(--good); box-shadow: inset 0 -2px var(--good); }
.row sub { color: var(--faint); font-size: .65em; font-weight: 400; }
{% endblock %}
{% block body %}
<p class="faint">Cache <code>{{ digest }}</code>. <b style="color: var(--good)">Green</b>: counts in the loss.
<b style="color: var(--special)">Framed</b>: a special token. The pointer over a token shows its id and position.</p>
{% for row in rows %}
<h2>Row {{ row.number|thousands }}{% if row.side %}: {{ row.side }}{% endif %}</h2>
<p class="faint">row {{ row.source_row|thousands }} of dataset.mix[{{ row.source }}]:
{{ row.tokens|length|thousands }} tokens, {{ row.num_trained|thousands }} of them trained</p>
<div class="row">
{%- for token in row.tokens -%}
<span{% if token.css %} class="{{ token.css }}"{% endif %} title="id {{ token.id }}, position {{ loop.index0 }}">
{{- token.text }}{% if with_ids %}<sub>{{ token.id }}</sub>{% endif %}</span>
{%- endfor -%}
</div>
{% endfor %}
{% endblock %}
"""


@dataclass(frozen=True)
class _ShownToken:
    id: int
    text: str
    css: str


@dataclass(frozen=True)
class _ShownRow:
    number: int
    side: str | None
    source: int
    source_row: int
    tokens: tuple[_ShownToken, ...]
    num_trained: int


def render_rows(
    digest: str,
    rows: Sequence[tuple[int, CachedRow, Sequence[Token]]],
    with_ids: bool,
    sequences_per_example: int = 1,
) -> str:
    """The page of some rows: of each its number in the cache, the row, and its tokens. `with_ids`: print every id."""
    numbers = [number for number, _, _ in rows]
    named = f"row {numbers[0]:,}" if len(numbers) == 1 else f"rows {numbers[0]:,} to {numbers[-1]:,}"
    shown = [_shown_row(number, side_of(number, sequences_per_example), row, tokens) for number, row, tokens in rows]
    return render_page(_PAGE, title=f"{digest[:12]}: {named}", digest=digest, rows=shown, with_ids=with_ids)


def _shown_row(number: int, side: str | None, row: CachedRow, tokens: Sequence[Token]) -> _ShownRow:
    shown = tuple(_ShownToken(one.id, _visible(one), _css(one)) for one in tokens)
    return _ShownRow(number, side, row.source, row.row, shown, sum(token.is_trained for token in tokens))


def _visible(token: Token) -> str:
    """A token without a text of its own, the first bytes of a character, is shown as a dot to point at."""
    return without_controls(token.text) or "·"


def _css(token: Token) -> str:
    return " ".join(name for name, holds in (("trained", token.is_trained), ("special", token.is_special)) if holds)
