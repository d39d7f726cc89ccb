"""What `statistics.json` and `stats` say of a cache, counted a second time in the simplest way."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.dataset_cacher.workbench import Workbench, conversation
from tunewright.dataset_cacher.preparation import statistics as statistics_module
from tunewright.dataset_cacher.preparation.statistics import RowColumns, statistics_of
from tunewright.dataset_cacher.views.statistics_page import render_statistics

MAX_LENGTH = 300

Rows = list[tuple[int, int, int, bool]]

rows_of_a_mix = st.lists(
    st.tuples(st.integers(1, MAX_LENGTH), st.integers(1, 50), st.integers(0, 2), st.booleans()), min_size=1, max_size=40
)


def columns(rows: Rows) -> RowColumns:
    lengths, trained, sources, truncated = zip(*rows, strict=True)
    return RowColumns(
        np.asarray(lengths, np.uint32), np.asarray(trained, np.uint32), np.asarray(sources, np.uint16),
        np.asarray(truncated, np.bool_),
    )  # fmt: skip


def summarize(rows: Rows) -> dict[str, Any]:
    return statistics_of(columns(rows), [{"no_trained_tokens": 2}, {}, {"template_unmaskable": 1}], 9, MAX_LENGTH, "m")


@given(rows_of_a_mix)
def test_counts_are_those_of_the_rows_for_each_source_and_for_all(rows: Rows) -> None:
    document = summarize(rows)
    for source, numbers in [(None, document), *enumerate(document["sources"])]:
        chosen = [row for row in rows if source is None or row[2] == source]
        assert numbers["rows"] == len(chosen)
        assert numbers["tokens"] == sum(row[0] for row in chosen)
        assert numbers["trained_tokens"] == sum(row[1] for row in chosen)
        assert numbers["truncated"] == sum(row[3] for row in chosen)
        if not chosen:
            assert numbers["length_tokens"] is None and numbers["trained_share"] is None
            continue
        assert numbers["trained_share"] == pytest.approx(numbers["trained_tokens"] / numbers["tokens"], abs=1e-6)
        lengths = sorted(row[0] for row in chosen)
        quantiles = numbers["length_tokens"]
        assert (quantiles["min"], quantiles["max"]) == (lengths[0], lengths[-1])
        assert quantiles["p50"] == quantiles["median"] == lengths[round(0.5 * (len(lengths) - 1))]
        assert quantiles["p95"] == lengths[round(0.95 * (len(lengths) - 1))]
        assert quantiles["mean"] == pytest.approx(sum(lengths) / len(lengths), abs=1e-3)
    assert document["dropped"] == {"no_trained_tokens": 2, "template_unmaskable": 1}


@given(rows_of_a_mix)
def test_histograms_have_every_row_in_the_range_of_its_length(rows: Rows) -> None:
    document = summarize(rows)
    for name in ("length_histogram", "length_bins"):
        ranges = document[name]
        for one in ranges:
            assert one["rows"] == sum(one["from"] <= row[0] <= one["to"] for row in rows)
        assert sum(one["rows"] for one in ranges) == len(rows)
    assert all((one["to"] + 1) == 2 * one["from"] for one in document["length_histogram"])
    assert len(document["length_bins"]) <= 32


def test_blocks_of_rows_give_what_one_block_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(length, 1 + length % 7, length % 3, length % 5 == 0) for length in range(1, 200)]
    whole = summarize(rows)
    monkeypatch.setattr(statistics_module, "_BLOCK_ROWS", 7)
    assert summarize(rows) == whole


def test_padding_and_packing_are_shares_of_all_places() -> None:
    document = statistics_of(columns([(50, 1, 0, False), (150, 1, 0, False)]), [{}], 1, 200, "marks")
    assert document["packing"] == {"row_tokens": 200, "rows": 1, "efficiency": 1.0}
    assert document["padding"] == {
        "to_max_length": 0.5,
        "to_longest_row": pytest.approx(1 / 3, abs=1e-6),
        "packed": 0.0,
    }


@pytest.fixture
def digest(bench: Workbench) -> str:
    """A cache of two sources, one of which loses a row."""
    bench.write("a.jsonl", [conversation("why? " * number, f"because {number}") for number in range(20)])
    bench.write("b.jsonl", [conversation("one", "two"), {"messages": [{"role": "user", "content": "alone"}]}])
    bench.experiment(['source = "a.jsonl"', 'source = "b.jsonl"'])
    return bench.run("prepare", "experiment.toml").stdout.strip()


def test_stats_prints_plain_tables_where_there_is_no_terminal(bench: Workbench, digest: str) -> None:
    printed = bench.run("stats", digest).stdout
    assert "\x1b" not in printed
    assert "1 no_trained_tokens" in printed and "mix[1]" in printed and "█" in printed
    assert re.search(r"^ *all .* 21 ", printed, re.MULTILINE)
    assert re.search(r"packed: \d+ rows of 128 tokens, \d+\.\d% full", printed)


class Page(HTMLParser):
    """Collects what a page would load, its titles and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "xlink:href", "data", "onload")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_of_statistics_loads_nothing_and_has_every_plot(bench: Workbench, digest: str, tmp_path: Path) -> None:
    path = tmp_path / "stats.html"
    answer = json.loads(bench.run("stats", digest, "--html", str(path), "--json").stdout)
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.loads == [] and "script" not in page.tags and "url(" not in text and "@import" not in text
    assert page.tags.count("svg") == 5
    for title in ("Length of rows", "Tokens per source", "Trained share", "Dropped rows by reason", "hold a token"):
        assert title in page.text
    assert "cut at 128" in page.text and "prefers-color-scheme: dark" in page.text
    assert f"{answer['sources'][0]['tokens']:,}" in page.text and "no_trained_tokens" in page.text
    refused = bench.run("stats", digest, "--html", str(tmp_path / "no" / "stats.html"), expect=64)
    assert "there is no directory" in refused.stderr


def test_the_page_escapes_what_sources_are_called(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("a", "b")])
    provided = bench.provide({"source": "rows.jsonl"})
    statistics = json.loads((Path(provided.dataset.path) / "statistics.json").read_text())
    statistics["sources"][0]["name"] = "</title><script>alert(1)</script>"
    statistics["dropped"] = {"<img src=x onerror=alert(2)>": 3}
    page = Page(render_statistics(bench.manifest(provided), statistics))
    assert "script" not in page.tags and "img" not in page.tags
    assert "<script>alert(1)</script>" in page.text and "onerror=alert(2)>" in page.text
