"""The statistics of a cache as a page with plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunewright.contracts.datasets import DatasetManifest
from tunewright.dataset_cacher.views.pages import render_page

_PAGE = """{% extends "frame" %}
{% macro bars(chart) %}
<svg viewBox="0 0 {{ chart.width }} {{ chart.height }}" width="{{ chart.width }}" height="{{ chart.height }}" role="img"
  aria-label="{{ chart.title }}">
{% for bar in chart.bars %}
<g><title>{{ bar.label }}: {{ bar.text }}</title>
<text x="{{ chart.left - 8 }}" y="{{ bar.y + 14 }}" text-anchor="end">{{ bar.label }}</text>
{% if chart.is_share %}<rect class="rest" x="{{ chart.left }}" y="{{ bar.y }}" width="{{ chart.full }}" height="18"/>
{% endif %}
<rect class="{{ chart.css }}" x="{{ chart.left }}" y="{{ bar.y }}" width="{{ bar.width }}" height="18"/>
<text class="faint" x="{{ chart.left + (chart.full if chart.is_share else bar.width) + 6 }}" y="{{ bar.y + 14 }}">
{{- bar.text }}</text></g>
{% endfor %}
</svg>
{% endmacro %}
{% block body %}
<p><code>{{ manifest.digest }}</code><br>
template {{ template_name }}, ids {{ manifest.id_type }}, rows of at most {{ cut|thousands }} tokens,
{{ size_mb }} MB{% if mask_rule %}, mask rule {{ mask_rule }}{% endif %}</p>
{% if sides %}<p>Preference pairs: of each pair the chosen row, then the rejected one.
{% for side, numbers in sides.items() %}
<br>{{ side }}: {{ numbers.tokens|thousands }} tokens, {{ numbers.trained_tokens|thousands }} of them trained,
{{ numbers.truncated|thousands }} rows cut
{% endfor %}</p>{% endif %}
<div class="wide"><table>
<tr><th>source</th><th>format</th><th>rows</th><th>tokens</th><th>trained</th><th>cut</th><th>dropped</th></tr>
{% for one in table %}
<tr><td>{{ one.name }}</td><td>{{ one.format }}</td><td>{{ one.rows|thousands }}</td><td>{{ one.tokens|thousands }}</td>
<td>{{ one.trained_share|percent }}</td><td>{{ one.truncated|thousands }}</td>
<td>{{ one.num_dropped|thousands }}</td></tr>
{% endfor %}
</table></div>
<h2>Length of rows</h2>
<p class="faint">tokens a row: {{ lengths }}</p>
<svg viewBox="0 0 760 232" width="760" height="232" role="img" aria-label="Rows by length, with the cut">
{% for bar in histogram.bars %}
<g><title>{{ bar.label }}: {{ bar.text }}</title>
<rect class="bar" x="{{ bar.x }}" y="{{ bar.y }}" width="{{ bar.width }}" height="{{ bar.height }}"/></g>
{% endfor %}
<line class="axis" x1="10" y1="200" x2="750" y2="200"/>
{% for tick in histogram.ticks %}
<text class="faint" x="{{ tick.x }}" y="216" text-anchor="middle">{{ tick.value|thousands }}</text>
{% endfor %}
<line class="cut" x1="{{ histogram.cut_x }}" y1="10" x2="{{ histogram.cut_x }}" y2="200"/>
<text x="{{ histogram.cut_x - 6 }}" y="18" text-anchor="end">cut at {{ cut|thousands }}: {{ whole.truncated|thousands }}
{{- " row" if whole.truncated == 1 else " rows" }} cut</text>
<text class="faint" x="750" y="230" text-anchor="end">tokens a row</text>
</svg>
{% for chart in charts %}
<h2>{{ chart.title }}</h2>
{% if chart.bars %}{{ bars(chart) }}{% else %}<p class="faint">none</p>{% endif %}
{% endfor %}
<p class="faint">Packed: {{ whole.packing.rows|thousands }} rows of {{ whole.packing.row_tokens|thousands }} tokens.</p>
{% endblock %}
"""

_LEFT, _FULL, _STEP = 190, 420, 26
_PLOT_LEFT, _PLOT_WIDTH, _PLOT_TOP, _PLOT_BOTTOM = 10, 740, 26, 200


@dataclass(frozen=True)
class _Bar:
    """A bar with its label on the left and its value on the right."""

    label: str
    text: str
    y: int
    width: float


@dataclass(frozen=True)
class _Chart:
    """Bars below each other, all of one scale."""

    title: str
    css: str
    bars: tuple[_Bar, ...]
    is_share: bool
    """Whether the scale ends at 100 %."""

    left: int = _LEFT
    full: int = _FULL
    width: int = 760

    @property
    def height(self) -> int:
        return _STEP * len(self.bars) + 4


@dataclass(frozen=True)
class _Column:
    """A column of the histogram."""

    label: str
    text: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class _Tick:
    x: float
    value: int


@dataclass(frozen=True)
class _Histogram:
    bars: tuple[_Column, ...]
    ticks: tuple[_Tick, ...]
    cut_x: float


def render_statistics(manifest: DatasetManifest, statistics: Mapping[str, Any]) -> str:
    """The page of a cache: its manifest and its `statistics.json`."""
    cut = manifest.key["max_length_tokens"]
    names = [source_name(source, number) for number, source in enumerate(statistics["sources"])]
    rows = [{**numbers_of(one), "name": name} for one, name in zip(statistics["sources"], names, strict=True)]
    whole = {**numbers_of(statistics), "name": "all"}
    return render_page(
        _PAGE,
        title=f"Dataset {manifest.digest[:12]}",
        manifest=manifest,
        template_name=(manifest.key.get("chat_template") or {}).get("name", "unknown"),
        mask_rule=statistics.get("mask_rule"),
        sides=statistics.get("sides"),
        size_mb=f"{sum(record.bytes for record in manifest.files) / 1e6:,.1f}",
        cut=cut,
        whole=statistics,
        table=[*rows, whole] if len(rows) > 1 else rows,
        lengths=lengths_text(statistics["length_tokens"]),
        histogram=_histogram(statistics.get("length_bins") or statistics["length_histogram"], cut),
        charts=_charts(rows, whole, statistics),
    )


def numbers_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """What tables show of a source, or of all: also from a cache whose statistics say less."""
    tokens = document["tokens"]
    return {
        "format": document.get("format", ""),
        "rows": document["rows"],
        "tokens": tokens,
        "trained_share": document["trained_tokens"] / tokens if tokens else None,
        "truncated": document["truncated"],
        "dropped": document["dropped"],
        "num_dropped": sum(document["dropped"].values()),
    }


def lengths_text(lengths: Mapping[str, float]) -> str:
    """Quantiles in words. The median has two names in `statistics.json`, one of an earlier version."""
    return ", ".join(f"{name} {value:,}" for name, value in lengths.items() if name != "median" or "p50" not in lengths)


def source_name(source: Mapping[str, Any], number: int) -> str:
    """How a source of the mix is called: by its place in it, and its name where it has one."""
    return f"mix[{number}] {source['name']}" if "name" in source else f"mix[{number}]"


def _charts(rows: Sequence[Mapping[str, Any]], whole: Mapping[str, Any], statistics: Mapping[str, Any]) -> list[_Chart]:
    shares = [*rows, whole] if len(rows) > 1 else rows
    packing, padding = statistics["packing"], statistics.get("padding", {})
    filled = {
        "packed": packing["efficiency"],
        **{
            text: 1 - padding[name]
            for name, text in (("to_longest_row", "padded to the longest"), ("to_max_length", "padded to the cut"))
            if name in padding
        },
    }
    return [
        _amounts("Tokens per source", "bar", {one["name"]: one["tokens"] for one in rows}),
        _shares("Trained share", "good", {one["name"]: one["trained_share"] or 0.0 for one in shares}),
        _amounts("Dropped rows by reason", "bad", whole["dropped"]),
        _shares("Places that hold a token", "bar", filled),
    ]


def _amounts(title: str, css: str, amounts: Mapping[str, int]) -> _Chart:
    most = max(amounts.values(), default=0) or 1
    texts = [(name, f"{amount:,}", amount / most) for name, amount in amounts.items()]
    return _Chart(title, css, _bars(texts), is_share=False)


def _shares(title: str, css: str, shares: Mapping[str, float]) -> _Chart:
    return _Chart(title, css, _bars([(name, f"{share:.1%}", share) for name, share in shares.items()]), is_share=True)


def _bars(values: Sequence[tuple[str, str, float]]) -> tuple[_Bar, ...]:
    return tuple(
        _Bar(_short(label), text, number * _STEP + 2, round(_FULL * part, 1))
        for number, (label, text, part) in enumerate(values)
    )


def _short(label: str) -> str:
    return label if len(label) <= 28 else f"…{label[-27:]}"


def _histogram(bins: Sequence[Mapping[str, int]], cut: int) -> _Histogram:
    """Columns over the range up to the cut, or to the longest row where that is longer."""
    end = max(cut, *(one["to"] for one in bins))
    most = max(one["rows"] for one in bins) or 1
    scale = _PLOT_WIDTH / end

    def column(one: Mapping[str, int]) -> _Column:
        height = round((_PLOT_BOTTOM - _PLOT_TOP) * one["rows"] / most, 1)
        label = f"{one['from']:,} to {one['to']:,} tokens"
        width = max(1.0, round((one["to"] - one["from"] + 1) * scale - 1, 1))
        x = round(_PLOT_LEFT + (one["from"] - 1) * scale, 1)
        return _Column(label, f"{one['rows']:,} rows", x, round(_PLOT_BOTTOM - height, 1), width, height)

    ticks = tuple(_Tick(round(_PLOT_LEFT + _PLOT_WIDTH * part / 4, 1), round(end * part / 4)) for part in (1, 2, 3))
    return _Histogram(tuple(column(one) for one in bins), ticks, round(_PLOT_LEFT + cut * scale, 1))
