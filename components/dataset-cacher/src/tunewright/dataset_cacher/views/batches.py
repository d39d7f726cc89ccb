"""The rows of a cache a record batch at a time, as flat numpy arrays: what exports read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
from numpy.typing import NDArray

from tunewright.contracts.datasets import DatasetManifest

IGNORED = -100
"""The label of a token that does not count: what PyTorch's cross-entropy leaves out."""


@dataclass(frozen=True)
class FlatRows:
    """Some rows of a cache, one behind the other. Shape legend: R rows, T tokens of all of them."""

    ids: NDArray[Any]
    """Token ids, in the cache's unsigned type. Shape (T,)."""

    edges: NDArray[np.int64]
    """Where rows begin in `ids`, and where the last ends. Shape (R + 1,)."""

    trained: NDArray[np.bool_]
    """Whether a token counts in the loss. Shape (T,)."""

    sources: NDArray[np.uint16]
    """Index into the mix. Shape (R,)."""

    def labels(self) -> NDArray[np.int64]:
        """The ids where a token counts in the loss, IGNORED elsewhere. Shape (T,)."""
        return np.where(self.trained, self.ids.astype(np.int64), IGNORED)


def read_batches(cache: Path, manifest: DatasetManifest) -> Iterator[FlatRows]:
    """Every row of the cache, in order. In memory is one batch: as many rows as were written at once."""
    for shard in manifest.shards:
        # Read and not mapped: mapped pages would count as memory of ours, a whole shard of them.
        with arrow.OSFile(str(cache / shard.file)) as source:
            reader = arrow.ipc.open_file(source)
            for index in range(reader.num_record_batches):
                yield _flat_rows(reader.get_batch(index))


def flat_list(column: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The values of a list column without nulls, one behind the other, and where its lists begin and the last ends."""
    edges = column.offsets.to_numpy().astype(np.int64)
    values = column.values.to_numpy(zero_copy_only=False)[edges[0] : edges[-1]]
    return values, edges - edges[0]


def _flat_rows(batch: Any) -> FlatRows:
    ids, edges = flat_list(batch["input_ids"])
    spans, span_edges = flat_list(batch["spans"])
    return FlatRows(ids, edges, _trained(edges, spans, span_edges), batch["source"].to_numpy())


def _trained(edges: NDArray[np.int64], spans: NDArray[Any], span_edges: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Spans, which do not overlap and are not empty, as a mask over all tokens."""
    places = spans + np.repeat(edges[:-1], np.diff(span_edges))
    steps = np.zeros(edges[-1] + 1, dtype=np.int8)
    steps[places[::2]] += 1
    steps[places[1::2]] -= 1
    return np.cumsum(steps[:-1], dtype=np.int8).view(np.bool_)
