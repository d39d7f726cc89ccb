"""Conversations as text, as many as are encoded together, in columns: none of them costs an object of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate

from tunewright.dataset_cacher.chat.masking import Rendered

SPAN_WIDTH = 4
"""Numbers that tell of a span of a skeleton where it starts and ends."""


@dataclass(frozen=True, eq=False)
class Skeleton:
    """What texts have alike: fixed texts around slots for contents, and what is trained of them."""

    literals: tuple[str, ...]
    """One more than there are slots."""

    slots: tuple[tuple[int, bool], ...]
    """The message whose content goes there, and whether white space at its ends is taken off."""

    spans: tuple[tuple[int, int, int, int], ...]
    """What is trained: for start and end, the characters of fixed text before it, and the slots before it."""

    @classmethod
    def of(cls, rendered: Rendered) -> Skeleton:
        """The skeleton of one text alone: all of it is fixed."""
        return cls((rendered.text,), (), tuple([(start, 0, end, 0) for start, end in rendered.spans]))

    def in_slots(self, contents: Sequence[str]) -> Sequence[str]:
        """What goes into each slot, given the contents of all messages."""
        if len(contents) == self._num_taken:
            return contents
        return [contents[number].strip() if strips else contents[number] for number, strips in self.slots]

    def joined(self, in_slots: Sequence[str]) -> str:
        """The text, given what goes into each slot."""
        pieces = self._pieces.copy()
        pieces[1::2] = in_slots
        return "".join(pieces)

    def render(self, contents: Sequence[str]) -> Rendered:
        """The text, given the contents of all messages, with what counts in the loss."""
        in_slots = self.in_slots(contents)
        before = [0, *accumulate(map(len, in_slots))]
        spans = [(start + before[slots], end + before[last]) for start, slots, end, last in self.spans]
        return Rendered(self.joined(in_slots), tuple([span for span in spans if span[0] < span[1]]))

    @cached_property
    def num_characters(self) -> int:
        """Of the fixed texts."""
        return sum(map(len, self.literals))

    @cached_property
    def _num_taken(self) -> int:
        """How many contents go into the slots as they are, in their order, where all do. Else no number of them."""
        takes_all = self.slots == tuple((number, False) for number in range(len(self.slots)))
        return len(self.slots) if takes_all else -1

    @cached_property
    def _pieces(self) -> list[str]:
        """The fixed texts, with a place for each slot between them."""
        pieces = [""] * (2 * len(self.slots) + 1)
        pieces[::2] = self.literals
        return pieces


@dataclass(frozen=True)
class TextBatch:
    """Some texts, in order, and how each came about."""

    texts: list[str] = field(default_factory=list)
    skeletons: list[Skeleton] = field(default_factory=list)
    """Of each text. Many share one."""

    content_sizes: list[int] = field(default_factory=list)
    """Characters in each slot, of all texts one behind the other. Contents are not kept: memory that is free at once is
    used again at once."""

    @classmethod
    def of(cls, rendered: Sequence[Rendered]) -> TextBatch:
        """Texts that came about in any other way."""
        return cls([one.text for one in rendered], [Skeleton.of(one) for one in rendered])

    def extend(self, other: TextBatch) -> None:
        """The texts of `other` too, behind those that are there."""
        self.texts.extend(other.texts)
        self.skeletons.extend(other.skeletons)
        self.content_sizes.extend(other.content_sizes)

    def __len__(self) -> int:
        return len(self.texts)
