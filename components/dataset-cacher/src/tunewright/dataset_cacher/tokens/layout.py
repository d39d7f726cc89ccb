"""Where in the bytes of a batch its texts and what is trained of them are: skeletons once for all texts they made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from tunewright.dataset_cacher.chat.skeletons import Filled, Frame, Text, frame_of
from tunewright.dataset_cacher.tokens.ragged import starts_of


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
    """The bytes of a batch."""

    sizes: NDArray[np.int64]
    """Shape (texts,): bytes of each text."""

    spans: Runs
    """What is trained, in bytes from the beginning of the batch."""


def layout_of(texts: Sequence[Text]) -> Layout:
    """Sizes and spans of a batch, in bytes."""
    if not texts:
        nothing = np.zeros(0, np.int64)
        return Layout(nothing, Runs(nothing, nothing, nothing))
    frames = [text.skeleton.frame if type(text) is Filled else frame_of(text.text, text.spans) for text in texts]
    content_sizes = [text.num_bytes if type(text) is Filled else () for text in texts]
    distinct = {id(frame): frame for frame in frames}
    numbers = dict(zip(distinct, range(len(distinct)), strict=True))
    frame_numbers = np.fromiter(map(numbers.__getitem__, map(id, frames)), np.int64, len(frames))
    num_spans, bounds = _bounds_of(list(distinct.values()), frame_numbers)
    return _placed(
        _Frames(
            fixed_sizes=np.asarray([frame.num_bytes for frame in distinct.values()], np.int64)[frame_numbers],
            content_sizes=np.fromiter(chain.from_iterable(content_sizes), np.int64),
            num_contents=np.fromiter(map(len, content_sizes), np.int64, len(texts)),
            num_spans=num_spans,
            bounds=bounds,
        )
    )


def _bounds_of(distinct: Sequence[Frame], frame_numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], ...]:
    """How many spans each text has, and the bounds of all of them: those of its frame."""
    bounds = np.asarray(list(chain.from_iterable(frame.bounds for frame in distinct)), np.int64).reshape(-1, 4)
    of_frames = np.asarray([len(frame.bounds) // 4 for frame in distinct], np.int64)
    num_spans = of_frames[frame_numbers]
    offsets = starts_of(of_frames)[frame_numbers] - starts_of(num_spans)
    return num_spans, bounds[np.repeat(offsets, num_spans) + np.arange(num_spans.sum())]


@dataclass(frozen=True)
class _Frames:
    """What the texts of a batch are made of."""

    fixed_sizes: NDArray[np.int64]
    """Shape (texts,): bytes of each that are no content."""

    content_sizes: NDArray[np.int64]
    """Bytes of the contents of all texts."""

    num_contents: NDArray[np.int64]
    """Shape (texts,): how many of them are each text's."""

    num_spans: NDArray[np.int64]
    """Shape (texts,): how many of `bounds` are each text's."""

    bounds: NDArray[np.int64]
    """Shape (spans, 4): for start and end, the bytes of fixed text before it, and the contents before it."""


def _placed(frames: _Frames) -> Layout:
    """All contents lie in one row: what is before a place in a text is a difference of two sums."""
    up_to = np.concatenate(([0], np.cumsum(frames.content_sizes)))
    ends = np.cumsum(frames.num_contents)
    firsts = ends - frames.num_contents
    sizes = frames.fixed_sizes + up_to[ends] - up_to[firsts]
    numbers = np.repeat(np.arange(len(sizes)), frames.num_spans)
    origins = (np.cumsum(sizes) - sizes - up_to[firsts])[numbers]
    first_contents = firsts[numbers]
    fixed_start, start, fixed_end, end = frames.bounds.T
    starts = origins + fixed_start + up_to[first_contents + start]
    stops = origins + fixed_end + up_to[first_contents + end]
    holds = starts < stops
    return Layout(sizes, Runs(numbers[holds], starts[holds], stops[holds]))
