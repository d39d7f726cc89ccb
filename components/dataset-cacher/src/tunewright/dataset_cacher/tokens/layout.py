"""Where in the bytes of a batch its texts and what is trained of them are: skeletons once for all texts they made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunewright.dataset_cacher.chat.skeletons import Filled, Text, frame_of


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
    fixed_sizes: list[int] = []
    contents: list[str] = []
    num_contents: list[int] = []
    bounds: list[int] = []
    num_spans: list[int] = []
    for text in texts:
        if type(text) is Filled:
            frame = text.skeleton.frame
            contents += text.contents
            num_contents.append(len(text.contents))
        else:
            frame = frame_of(text.text, text.spans)
            num_contents.append(0)
        fixed_sizes.append(frame.num_bytes)
        bounds += frame.bounds
        num_spans.append(len(frame.bounds) // 4)
    content_sizes = [len(one) if one.isascii() else len(one.encode()) for one in contents]
    columns = (np.asarray(one, np.int64) for one in (fixed_sizes, content_sizes, num_contents, num_spans, bounds))
    return _placed(_Frames(*columns))


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
    """Four for each span: for start and end, the bytes of fixed text before it, and the contents before it."""


def _placed(frames: _Frames) -> Layout:
    """All contents lie in one row: what is before a place in a text is a difference of two sums."""
    up_to = np.concatenate(([0], np.cumsum(frames.content_sizes)))
    ends = np.cumsum(frames.num_contents)
    firsts = ends - frames.num_contents
    sizes = frames.fixed_sizes + up_to[ends] - up_to[firsts]
    numbers = np.repeat(np.arange(len(sizes)), frames.num_spans)
    origins = (np.cumsum(sizes) - sizes - up_to[firsts])[numbers]
    first_contents = firsts[numbers]
    fixed_start, start, fixed_end, end = frames.bounds.reshape(-1, 4).T
    starts = origins + fixed_start + up_to[first_contents + start]
    stops = origins + fixed_end + up_to[first_contents + end]
    holds = starts < stops
    return Layout(sizes, Runs(numbers[holds], starts[holds], stops[holds]))
