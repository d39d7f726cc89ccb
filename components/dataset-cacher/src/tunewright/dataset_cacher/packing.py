"""Which conversations share a row: best-fit decreasing, the same plan for the same lengths everywhere."""

from __future__ import annotations

from collections.abc import Sequence


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Rows (indexes into `lengths`) for each packed row of at most `capacity` tokens.

    Longest first, each into the fullest packed row that still has room, the latest of equals. Packed rows come in the
    order of their first row, and rows ascend within them.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    bins: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms = 0  # bit r is set where a packed row with r tokens of room exists
    for row in order:
        length = lengths[row]
        assert length <= capacity, f"row {row} has {length} tokens, a packed row holds {capacity}"
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            chosen = by_room[room].pop()
            if not by_room[room]:
                rooms &= ~(1 << room)
            bins[chosen].append(row)
        else:
            room, chosen = capacity, len(bins)
            bins.append([row])
        by_room.setdefault(room - length, []).append(chosen)
        rooms |= 1 << (room - length)
    return sorted(sorted(rows) for rows in bins)


def packing_efficiency(num_tokens: int, num_packed_rows: int, capacity: int) -> float:
    """The share of all places in packed rows that hold a token."""
    return num_tokens / (num_packed_rows * capacity) if num_packed_rows else 0.0
