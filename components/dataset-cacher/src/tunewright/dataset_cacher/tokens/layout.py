"""Where the texts of a batch and what is trained of them are: told once for all texts that share a skeleton."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from tunewright.dataset_cacher.chat.masking import CharSpan, Rendered
from tunewright.dataset_cacher.chat.texts import SPAN_WIDTH, TextBatch
from tunewright.dataset_cacher.tokens.ragged import TupleLists, starts_of


@dataclass(frozen=True)
class Runs:
    """Ranges of tokens or of bytes, of all texts of a batch together."""

    texts: NDArray[np.int64]
    """The text that each range is in, ascending."""

    starts: NDArray[np.int64]
    """First token of the range, counted from the first token of the batch."""

    ends: NDArray[np.int64]
    """One behind its last."""


@dataclass(frozen=True)
class Layout:
    """Where texts that lie one behind the other are: in characters or in bytes, as it was asked for."""

    sizes: NDArray[np.int64]
    """Shape (texts,)."""

    spans: Runs
    """What is trained, from the beginning of the first text."""


def layout_of(batch: TextBatch) -> Layout:
    """Sizes and spans of a batch, in characters: what its skeletons tell, with no step for each text."""
    skeletons = list(dict.fromkeys(batch.skeletons))
    numbers = {skeleton: number for number, skeleton in enumerate(skeletons)}
    skeleton_of = np.asarray([numbers[one] for one in batch.skeletons], np.int64)
    # All contents lie in one row: what is before a place in a text is a difference of two sums.
    up_to = np.concatenate(([0], np.cumsum(np.asarray(batch.content_sizes, np.int64))))
    num_slots = np.asarray([len(one.slots) for one in skeletons], np.int64)[skeleton_of]
    last_slots = np.cumsum(num_slots)
    first_slots = last_slots - num_slots
    fixed_sizes = np.asarray([one.num_characters for one in skeletons], np.int64)[skeleton_of]
    sizes = fixed_sizes + up_to[last_slots] - up_to[first_slots]
    rows, bounds = TupleLists.of([one.spans for one in skeletons], SPAN_WIDTH).spread(skeleton_of)
    origins, first_slots = (starts_of(sizes) - up_to[first_slots])[rows], first_slots[rows]
    fixed_start, slots_start, fixed_end, slots_end = bounds.T
    starts = origins + fixed_start + up_to[first_slots + slots_start]
    ends = origins + fixed_end + up_to[first_slots + slots_end]
    holds = starts < ends
    return Layout(sizes, Runs(rows[holds], starts[holds], ends[holds]))


def in_bytes(layout: Layout, texts: Sequence[str]) -> Layout:
    """A layout in characters as one in bytes of UTF-8."""
    wide = [number for number, text in enumerate(texts) if not text.isascii()]
    if not wide:
        return layout
    spans, firsts, sizes = layout.spans, starts_of(layout.sizes), layout.sizes.copy()
    # Starts and ends in turn, each from the beginning of its text: they ascend.
    places = (np.stack((spans.starts, spans.ends)) - firsts[spans.texts]).T.ravel().tolist()
    edges = (2 * np.searchsorted(spans.texts, [wide, [number + 1 for number in wide]])).T.tolist()
    for number, (first, last) in zip(wide, edges, strict=True):
        text = texts[number]
        bounds = pairwise([0, *places[first:last], len(text)])
        *places[first:last], sizes[number] = accumulate([len(text[start:end].encode()) for start, end in bounds])
    starts, ends = np.asarray(places, np.int64).reshape(-1, 2).T + starts_of(sizes)[spans.texts]
    return Layout(sizes, Runs(spans.texts, starts, ends))


def rendered_of(batch: TextBatch) -> list[Rendered]:
    """The same texts, each with its spans."""
    layout = layout_of(batch)
    spans: list[list[CharSpan]] = [[] for _ in batch.texts]
    firsts = starts_of(layout.sizes)[layout.spans.texts]
    columns = layout.spans.texts, layout.spans.starts - firsts, layout.spans.ends - firsts
    for number, start, end in zip(*(column.tolist() for column in columns), strict=True):
        spans[number].append((start, end))
    return [Rendered(text, tuple(mine)) for text, mine in zip(batch.texts, spans, strict=True)]
