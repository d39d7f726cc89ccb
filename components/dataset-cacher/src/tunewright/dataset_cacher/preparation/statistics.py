"""Counts and lengths of a cache: what `statistics.json` and the manifest say of each source and of the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.dataset_cacher.chat.pairs import SIDES
from tunewright.dataset_cacher.preparation.packing import packing_efficiency

STATISTICS_FILE = "statistics.json"


@dataclass
class Tally:
    """What became of the rows taken from one source. Repeats count as often as they were taken."""

    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    truncated: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

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


@dataclass(frozen=True)
class RowColumns:
    """The rows that were kept, a column each, in the order of the cache. Shape (rows,)."""

    lengths: NDArray[np.uint32]
    """Tokens of each row."""

    trained: NDArray[np.uint32]
    """How many of them count in the loss."""

    sources: NDArray[np.uint16]
    """Index into the mix."""

    truncated: NDArray[np.bool_]
    """Whether the row was cut."""

    def blocks(self) -> Iterator[RowColumns]:
        """The same rows, some at a time: numpy widens what it counts to 64 bits."""
        for start in range(0, len(self.lengths), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            yield RowColumns(self.lengths[part], self.trained[part], self.sources[part], self.truncated[part])


_BLOCK_ROWS = 1 << 18

_QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95,
              "p99": 0.99, "max": 1.0}  # fmt: skip

_NUM_BINS = 32


class _Counts:
    """What is counted of a set of rows: how many there are of each length, and sums."""

    def __init__(self) -> None:
        self.by_length: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.trained = self.truncated = 0

    def add(self, lengths: NDArray[Any], trained: NDArray[Any], truncated: NDArray[Any]) -> None:
        """More rows."""
        counts = np.bincount(lengths, minlength=len(self.by_length))
        counts[: len(self.by_length)] += self.by_length
        self.by_length = counts
        self.trained += int(trained.sum(dtype=np.int64))
        self.truncated += int(truncated.sum())

    def tally(self, dropped: Mapping[str, int]) -> Tally:
        """The counts that the manifest has too."""
        rows, tokens = int(self.by_length.sum()), int(self.by_length @ np.arange(len(self.by_length)))
        return Tally(rows, tokens, self.trained, self.truncated, Counter(dict(dropped)))


def statistics_of(
    rows: RowColumns,
    dropped: Sequence[Mapping[str, int]],
    num_packed_rows: int,
    max_length_tokens: int,
    mask_rule: str,
    sequences_per_example: int = 1,
) -> dict[str, Any]:
    """The whole of `statistics.json`; of `sources` the numbers, one entry for each of `dropped` (rows by reason).

    Of preference pairs `sides` has the numbers of chosen and rejected sequences.
    """
    counts = [_Counts() for _ in dropped]
    for block in rows.blocks():
        for source in np.flatnonzero(np.bincount(block.sources)).tolist():
            chosen = block.sources == source
            counts[source].add(block.lengths[chosen], block.trained[chosen], block.truncated[chosen])
    tallies = [one.tally(reasons) for one, reasons in zip(counts, dropped, strict=True)]
    whole, by_length = total(tallies), _sum([one.by_length for one in counts])
    numbers = [_numbers(tally, one.by_length) for tally, one in zip(tallies, counts, strict=True)]
    packed = _Packed(num_packed_rows, sequences_per_example * max_length_tokens)
    sides = {"sides": _sides(rows)} if sequences_per_example == len(SIDES) else {}
    return {
        **_document(whole, by_length, packed, max_length_tokens, mask_rule),
        **sides,
        "sources": numbers,
    }


@dataclass(frozen=True)
class _Packed:
    """Packed rows of one size."""

    rows: int
    row_tokens: int


def _sides(rows: RowColumns) -> dict[str, Any]:
    """Chosen and rejected sequences, each for themselves: which are longer is what a reader of pairs wants to know."""
    columns = {"tokens": rows.lengths, "trained_tokens": rows.trained, "truncated": rows.truncated}
    return {
        side: {name: int(values[number :: len(SIDES)].sum(dtype=np.int64)) for name, values in columns.items()}
        for number, side in enumerate(SIDES)
    }


def _document(
    whole: Tally, by_length: NDArray[np.int64], packed: _Packed, max_length_tokens: int, mask_rule: str
) -> dict[str, Any]:
    return {
        **_numbers(whole, by_length),
        "mask_rule": mask_rule,
        "length_histogram": _doubling_histogram(by_length),
        "length_bins": _even_histogram(by_length),
        "packing": {
            "row_tokens": packed.row_tokens,
            "rows": packed.rows,
            "efficiency": round(packing_efficiency(whole.tokens, packed.rows, packed.row_tokens), 6),
        },
        "padding": _padding(whole, by_length, packed, max_length_tokens),
    }


def _numbers(tally: Tally, by_length: NDArray[np.int64]) -> dict[str, Any]:
    """Counts and lengths of a source, or of all. Without rows there is no share and there are no lengths."""
    return {
        **tally.to_document(),
        "trained_share": round(tally.trained_tokens / tally.tokens, 6) if tally.tokens else None,
        "length_tokens": _quantiles(by_length) if tally.rows else None,
    }


def _sum(counts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    summed = np.zeros(max((len(one) for one in counts), default=0), dtype=np.int64)
    for one in counts:
        summed[: len(one)] += one
    return summed


def _quantiles(by_length: NDArray[np.int64]) -> dict[str, Any]:
    """The length of the row at each rank, and the mean."""
    up_to = np.cumsum(by_length)
    num_rows = int(up_to[-1])
    ranks = {name: round(quantile * (num_rows - 1)) for name, quantile in _QUANTILES.items()}
    found = {name: int(np.searchsorted(up_to, rank, side="right")) for name, rank in ranks.items()}
    return {**found, "mean": round(int(by_length @ np.arange(len(by_length))) / num_rows, 3)}


def _doubling_histogram(by_length: NDArray[np.int64]) -> list[dict[str, int]]:
    """Rows by length, in ranges that double: 1, 2-3, 4-7, ... Ranges without rows are left out."""
    edges = [0, 1]
    while edges[-1] < len(by_length):
        edges.append(2 * edges[-1])
    return [one for one in _histogram(by_length, edges) if one["rows"]]


def _even_histogram(by_length: NDArray[np.int64]) -> list[dict[str, int]]:
    """Rows by length, in up to 32 ranges of one width from 1 to the longest row."""
    width = max(1, -(-(len(by_length) - 1) // _NUM_BINS))
    return _histogram(by_length, list(range(1, len(by_length) + width, width)))


def _histogram(by_length: NDArray[np.int64], edges: Sequence[int]) -> list[dict[str, int]]:
    pairs = zip(edges, edges[1:], strict=False)
    return [{"from": start, "to": end - 1, "rows": int(by_length[start:end].sum())} for start, end in pairs]


def _padding(whole: Tally, by_length: NDArray[np.int64], packed: _Packed, max_length_tokens: int) -> dict[str, float]:
    """The share of padding in batches of full length, in batches as long as the longest row, and when packed."""
    places = {
        "to_max_length": whole.rows * max_length_tokens,
        "to_longest_row": whole.rows * (len(by_length) - 1),
        "packed": packed.rows * packed.row_tokens,
    }
    return {name: round(1 - whole.tokens / count, 6) if count > 0 else 0.0 for name, count in places.items()}
