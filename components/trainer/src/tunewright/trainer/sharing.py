"""Who computes what of an optimizer step: pieces of different length, shared so that no process waits for another."""

from __future__ import annotations

from collections.abc import Sequence

Share = list[list[int]]
"""The forward passes of one process, each a list of pieces by their index."""


def share_evenly(sizes: Sequence[int], num_processes: int, most_per_pass: int) -> list[Share]:
    """Pieces of `sizes` tokens as forward passes of each process: `[process][pass][piece]`.

    Every process makes the same number of passes of at most `most_per_pass` pieces, as few as that allows; where pieces
    run out, a pass is empty. Tokens are balanced twice: passes that run at the same time have about one length (a
    strategy that cuts the model in pieces waits after each), and so have all passes of a process together. A pure
    function: every process finds the same. Pieces of a pass are in order.
    """
    num_rounds = max(1, -(-len(sizes) // (num_processes * most_per_pass)))
    passes = _fill(sizes, num_rounds * num_processes, most_per_pass)
    totals, shares = [0] * num_processes, [[] for _ in range(num_processes)]  # type: list[int], list[Share]
    for first in range(0, len(passes), num_processes):
        # The longest pass of a round goes to the process that has least to do so far.
        ranks = sorted(range(num_processes), key=lambda rank: (totals[rank], rank))
        for rank, one in zip(ranks, passes[first : first + num_processes], strict=True):
            shares[rank].append(one)
            totals[rank] += sum(sizes[piece] for piece in one)
    return shares


def _fill(sizes: Sequence[int], num_passes: int, most_per_pass: int) -> list[list[int]]:
    """Passes of about one length, the longest first: each piece, longest first, into the shortest that has room."""
    passes: list[list[int]] = [[] for _ in range(num_passes)]
    totals = [0] * num_passes
    for piece in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        room = [index for index, one in enumerate(passes) if len(one) < most_per_pass]
        chosen = min(room, key=lambda index: (totals[index], index))
        passes[chosen].append(piece)
        totals[chosen] += sizes[piece]
    order = sorted(range(num_passes), key=lambda index: (-totals[index], index))
    return [sorted(passes[index]) for index in order]
