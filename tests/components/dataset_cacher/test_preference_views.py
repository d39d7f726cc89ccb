"""What people see of a cache of pairs, and the pairs of the examples."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from components.dataset_cacher.workbench import Workbench
from tunewright.contracts.errors import UsageError
from tunewright.dataset_cacher.commands.export import export
from tunewright.dataset_cacher.commands.show import show
from tunewright.dataset_cacher.commands.stats import stats
from tunewright.dataset_cacher.provide import Provided

EXAMPLES = Path(__file__).parents[3] / "examples"
SOURCE = {"source": "pairs.jsonl", "format": "preference"}


@pytest.fixture
def provided(bench: Workbench) -> Provided:
    """Three pairs, of which one is dropped."""
    pairs = [("why?", "so it is.", "no"), ("same?", "a", "a"), ("when?", "now", "never")]
    bench.write("pairs.jsonl", [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in pairs])
    return bench.provide(SOURCE)


def output_of(command: Any, bench: Workbench, provided: Provided, *arguments: str) -> str:
    """What a command says, in this process."""
    result = CliRunner().invoke(
        command,
        [provided.dataset.digest, "--cache-root", str(bench.cache_root), *arguments],
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    return result.output


def test_show_tells_which_side_of_its_pair_a_row_is(bench: Workbench, provided: Provided) -> None:
    said = output_of(show, bench, provided, "--row", "2", "--count", "2")
    assert "now</s>\nrow 2 (chosen of row 2 of dataset.mix[0])" in said
    assert "never</s>\nrow 3 (rejected of row 2 of dataset.mix[0])" in said
    lines = output_of(show, bench, provided, "--count", "4", "--json").splitlines()
    assert [json.loads(line)["side"] for line in lines] == ["chosen", "rejected"] * 2


def test_the_page_of_rows_tells_it_too(bench: Workbench, provided: Provided, tmp_path: Path) -> None:
    output_of(show, bench, provided, "--row", "1", "--count", "2", "--html", str(tmp_path / "rows.html"))
    page = (tmp_path / "rows.html").read_text()
    assert "<h2>Row 1: rejected</h2>" in page and "<h2>Row 2: chosen</h2>" in page


def test_stats_count_pairs_and_compare_the_sides(bench: Workbench, provided: Provided, tmp_path: Path) -> None:
    output_of(stats, bench, provided, "--html", str(tmp_path / "stats.html"))
    document = json.loads(output_of(stats, bench, provided, "--json"))
    lengths = [[sum(label >= 0 for label in labels) for _, labels in bench.rows(provided)[side::2]] for side in (0, 1)]
    sides = [document["sides"][name] for name in ("chosen", "rejected")]
    assert [one["trained_tokens"] for one in sides] == [sum(one) for one in lengths]
    assert sum(one["tokens"] for one in sides) == document["tokens"] and document["rows"] == 4
    assert "Preference pairs" in (tmp_path / "stats.html").read_text()
    said = output_of(stats, bench, provided)
    header, counts = next(lines for lines in pairwise(said.splitlines()) if "mix[0]" in lines[1])
    assert header.split()[2:4] == ["pairs", "of"] and counts.split()[2:4] == ["2", "3"]
    assert f"  chosen: {sides[0]['tokens']} tokens, {sum(lengths[0])} of them trained (mean" in said


def test_exports_have_the_chosen_and_then_the_rejected_row_of_each_pair(bench: Workbench, provided: Provided) -> None:
    target = bench.project / "pairs-out.jsonl"
    output_of(export, bench, provided, "--format", "jsonl", "--to", str(target))
    written = [json.loads(line) for line in target.read_text().splitlines()]
    assert [(row["input_ids"], row["labels"]) for row in written] == bench.rows(provided)


def test_pairs_do_not_go_into_a_format_that_has_none(bench: Workbench, provided: Provided) -> None:
    with pytest.raises(UsageError, match=r"--format olmo: .* holds preference pairs"):
        output_of(export, bench, provided, "--format", "olmo", "--to", str(bench.project / "maps"))
    assert not (bench.project / "maps").exists()


@pytest.mark.timeout(120)
def test_the_pairs_of_the_examples_are_made_by_their_script_and_all_of_them_are_kept(tmp_path: Path) -> None:
    made, kept = tmp_path / "made.jsonl", EXAMPLES / "data/preferences.jsonl"
    subprocess.run(
        [sys.executable, str(EXAMPLES / "data/make_preferences.py"), "--output", str(made)], check=True, timeout=60
    )
    assert made.read_bytes() == kept.read_bytes() and len(made.read_bytes()) < 300_000
    bench = Workbench(EXAMPLES.parent, EXAMPLES / "models/tiny", tmp_path / "datasets")
    provided = bench.provide(
        {"source": "examples/data/preferences.jsonl", "format": "preference"}, max_length_tokens=1024
    )
    rows = [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 200 and provided.dataset.rows == 400 and not provided.dataset.dropped
    said = [row[side][0]["content"] + "</s>" for row in rows for side in ("chosen", "rejected")]
    assert bench.trained(provided) == said
