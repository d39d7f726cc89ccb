"""Counts and lengths of a cache: what `statistics.json` and the manifest say of each source and of the whole."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.dataset_cacher.packing import packing_efficiency

NO_TRAINED_TOKENS = "no_trained_tokens"
"""Nothing in the row counts in the loss: no answer in it, or the answer lies behind the cut."""

TEMPLATE_UNMASKABLE = "template_unmaskable"
"""It cannot be told which characters of the rendered text are the answer."""


@dataclass
class Tally:
    """What became of the rows taken from one source. Repeats count as often as they were taken."""

    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    truncated: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def count(self, num_tokens: int, num_trained: int, is_truncated: bool) -> None:
        """One row that was kept."""
        self.rows += 1
        self.tokens += num_tokens
        self.trained_tokens += num_trained
        self.truncated += is_truncated

    def to_document(self) -> dict[str, Any]:
        """As JSON, reasons in the order of their names."""
        counts = {name: getattr(self, name) for name in ("rows", "tokens", "trained_tokens", "truncated")}
        return {**counts, "dropped": dict(sorted(self.dropped.items()))}


def total(tallies: list[Tally]) -> Tally:
    """All sources together."""
    whole = Tally()
    for tally in tallies:
        for name in ("rows", "tokens", "trained_tokens", "truncated"):
            setattr(whole, name, getattr(whole, name) + getattr(tally, name))
        whole.dropped.update(tally.dropped)
    return whole


def make_statistics(
    whole: Tally, lengths: NDArray[np.int64], num_packed_rows: int, max_length_tokens: int, mask_rule: str
) -> dict[str, Any]:
    """The whole of `statistics.json` but for its sources. `lengths` has the tokens of each row, at least one row."""
    return {
        **whole.to_document(),
        "trained_share": round(whole.trained_tokens / whole.tokens, 6),
        "mask_rule": mask_rule,
        "length_tokens": _length_summary(lengths),
        "length_histogram": _histogram(lengths),
        "packing": {
            "row_tokens": max_length_tokens,
            "rows": num_packed_rows,
            "efficiency": round(packing_efficiency(whole.tokens, num_packed_rows, max_length_tokens), 6),
        },
    }


def _length_summary(lengths: NDArray[np.int64]) -> dict[str, Any]:
    ordered = np.sort(lengths)
    ranks = {"min": 0.0, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    summary = {name: int(ordered[round(rank * (len(ordered) - 1))]) for name, rank in ranks.items()}
    return {**summary, "mean": round(float(lengths.mean()), 3)}


def _histogram(lengths: NDArray[np.int64]) -> list[dict[str, int]]:
    """Rows by length, in ranges that double: 1, 2-3, 4-7, ..."""
    counts = np.bincount(np.floor(np.log2(lengths)).astype(np.int64))
    return [
        {"from": 1 << power, "to": (2 << power) - 1, "rows": int(count)} for power, count in enumerate(counts) if count
    ]
