"""Where in the bytes of a batch its texts and what is trained of them are: skeletons once for all texts they made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from tunewright.dataset_cacher.chat.skeletons import Filled, Frame, Text, frame_of


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
    frames, content_sizes = zip(*map(_measured, texts), strict=True)
    bounds = [frame.bounds for frame in frames]
    return _placed(
        _Frames(
            fixed_sizes=np.asarray([frame.num_bytes for frame in frames], np.int64),
            content_sizes=np.asarray(list(chain.from_iterable(content_sizes)), np.int64),
            num_contents=np.asarray(list(map(len, content_sizes)), np.int64),
            num_spans=np.asarray(list(map(len, bounds)), np.int64) // 4,
            bounds=np.asarray(list(chain.from_iterable(bounds)), np.int64),
        )
    )


def _measured(text: Text) -> tuple[Frame, Sequence[int]]:
    """Its fixed text, and the bytes of what is in its slots."""
    if type(text) is Filled:
        return text.skeleton.frame, text.num_bytes
    return frame_of(text.text, text.spans), ()


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
