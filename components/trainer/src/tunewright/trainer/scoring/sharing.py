"""Which rows are computed together, and by which process. Pure: the same batches for any number of processes."""

from __future__ import annotations

from collections.abc import Sequence


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """The rows of each batch: rows of about one length together, the longest first, so that little is padded.

    What a batch gives may depend on which rows are in it, in the last bits: so this does not depend on the processes.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def batches_of(batches: Sequence[list[int]], rank: int, num_processes: int) -> list[list[int]]:
    """Those of process `rank`: every so many, which shares long and short ones evenly."""
    return list(batches[rank::num_processes])
