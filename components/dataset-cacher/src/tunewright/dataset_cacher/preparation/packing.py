"""Which conversations share a row: best-fit decreasing, the same plan for the same lengths everywhere."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class PackingPlan(Sequence[list[int]]):
    """Packed rows in the order of their first conversation. As a sequence: the conversations of each, ascending."""

    rows: NDArray[np.uint32]
    """The conversations of all packed rows, one packed row after another. Shape (conversations,)."""

    ends: NDArray[np.int64]
    """Where each packed row ends in `rows`. Shape (packed rows,)."""

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: int | slice) -> list[int] | list[list[int]]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        start = self.ends[number - 1] if number else 0
        members: list[int] = self.rows[start : self.ends[number]].tolist()
        return members


class _OpenRows:
    """Packed rows that have room, by how many tokens of it they have."""

    def __init__(self) -> None:
        self._rooms: list[int] = []
        self._rows: dict[int, list[NDArray[np.uint32]]] = {}

    def take(self, length: int) -> tuple[int, NDArray[np.uint32]] | None:
        """The fullest of the packed rows that have room for `length`: that room, and every packed row that has it."""
        place = bisect_left(self._rooms, length)
        if place == len(self._rooms):
            return None
        room = self._rooms.pop(place)
        groups = self._rows.pop(room)
        return room, groups[0] if len(groups) == 1 else np.concatenate(groups)

    def put(self, room: int, rows: NDArray[np.uint32]) -> None:
        """Packed rows that now have this room. What is full is forgotten."""
        if not room or not len(rows):
            return
        groups = self._rows.get(room)
        if groups is None:
            insort(self._rooms, room)
            self._rows[room] = [rows]
        else:
            groups.append(rows)


def pack(lengths: NDArray[Any] | Sequence[int], capacity: int) -> PackingPlan:
    """Conversations (indexes into `lengths`, which are in tokens) for packed rows of at most `capacity` tokens each.

    Longest first, each into the fullest packed row that still has room. All of one length are placed at once, so that
    time depends on the different lengths there are; memory is below 32 bytes a conversation. Raises ValueError for a
    length above `capacity`.
    """
    sizes = np.asarray(lengths, dtype=np.uint32)
    if len(sizes) and int(sizes.max()) > capacity:
        row = int(sizes.argmax())
        raise ValueError(f"row {row} has {sizes[row]} tokens, a packed row holds {capacity}")
    order = _longest_first(sizes, capacity)
    packed_row_of = np.empty(len(sizes), dtype=np.uint32)
    packed_row_of[order] = _best_fit(sizes[order], capacity)
    del order
    return _in_order(packed_row_of)


def pack_examples(lengths: NDArray[np.uint32], capacity: int, sequences_per_example: int) -> PackingPlan:
    """The same for examples of so many sequences each, which stay together: packed rows hold that much more."""
    if sequences_per_example == 1:
        return pack(lengths, capacity)
    sums = lengths.reshape(-1, sequences_per_example).sum(axis=1)
    plan = pack(sums, sequences_per_example * capacity)
    sides = np.arange(sequences_per_example, dtype=np.uint32)
    members = plan.rows[:, None] * np.uint32(sequences_per_example) + sides
    return PackingPlan(members.reshape(-1), plan.ends * sequences_per_example)


def _longest_first(sizes: NDArray[np.uint32], capacity: int) -> NDArray[np.uint32]:
    # numpy sorts 16 bits by radix: ten times faster than by comparing.
    rooms = (capacity - sizes.astype(np.int64)).astype(np.uint16 if capacity < 1 << 16 else np.uint32)
    return np.argsort(rooms, kind="stable").astype(np.uint32)


def _best_fit(sizes: NDArray[np.uint32], capacity: int) -> NDArray[np.uint32]:
    """For each of `sizes`, which descend, the packed row it goes to."""
    chosen = np.empty(len(sizes), dtype=np.uint32)
    open_rows, num_rows = _OpenRows(), 0
    # `sizes` with something else in front, so that the first of them counts as a change too
    starts = np.flatnonzero(np.diff(sizes, prepend=~sizes[:1]))
    # An empty conversation takes a place too: a plan names each of them.
    lengths = np.maximum(sizes[starts], 1).tolist()
    for length, (start, end) in zip(lengths, pairwise([*starts.tolist(), len(sizes)]), strict=True):
        place = start
        while place < end:
            taken = open_rows.take(length)
            if taken is None:
                new = -(-(end - place) // (capacity // length))
                taken = capacity, np.arange(num_rows, num_rows + new, dtype=np.uint32)
                num_rows += new
            place += _fill(chosen[place:end], length, *taken, open_rows)
    return chosen


def _fill(chosen: NDArray[np.uint32], length: int, room: int, rows: NDArray[np.uint32], open_rows: _OpenRows) -> int:
    """Put conversations of `length` into packed rows that all have `room`, each full before the next: how many went."""
    each = room // length
    num_full = min(len(rows), len(chosen) // each)
    placed, full = num_full * each, rows[:num_full]
    chosen[:placed] = full.repeat(each) if each > 1 else full
    open_rows.put(room - each * length, full)
    if num_full == len(rows):
        return placed
    rows, rest = rows[num_full:], len(chosen) - placed
    if rest:
        chosen[placed:] = rows[0]
        open_rows.put(room - rest * length, rows[:1])
        placed, rows = len(chosen), rows[1:]
    open_rows.put(room, rows)
    return placed


def _in_order(packed_row_of: NDArray[np.uint32]) -> PackingPlan:
    """The plan: packed rows by their first conversation, conversations ascending within them."""
    num_packed = int(packed_row_of.max()) + 1 if len(packed_row_of) else 0
    first = np.empty(num_packed, dtype=np.uint32)
    # From the last one to the first: of what is assigned to one place, what comes last stays.
    first[packed_row_of[::-1]] = np.arange(len(packed_row_of) - 1, -1, -1, dtype=np.uint32)
    rank = np.empty(num_packed, dtype=np.uint32)
    rank[np.argsort(first)] = np.arange(num_packed, dtype=np.uint32)
    ranked = rank[packed_row_of]
    ends = np.cumsum(np.bincount(ranked, minlength=num_packed), dtype=np.int64)
    return PackingPlan(np.argsort(ranked, kind="stable").astype(np.uint32), ends)


def packing_efficiency(num_tokens: int, num_packed_rows: int, capacity: int) -> float:
    """The share of all places in packed rows that hold a token."""
    return num_tokens / (num_packed_rows * capacity) if num_packed_rows else 0.0
