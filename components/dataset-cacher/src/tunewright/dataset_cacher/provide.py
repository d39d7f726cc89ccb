"""A request to its cache: found, waited for, or made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.contracts.datasets import CachedDataset, DatasetManifest, DatasetRequest
from tunewright.contracts.plugins import PluginHost
from tunewright.dataset_cacher.digests import DigestMemory
from tunewright.dataset_cacher.inputs import Inputs, find_inputs
from tunewright.dataset_cacher.store import CacheStore


@dataclass(frozen=True)
class Provided:
    """The cache of a request."""

    dataset: CachedDataset
    key: dict[str, Any]
    is_hit: bool
    """Whether it was there already, or another process made it meanwhile."""


def provide_dataset(request: DatasetRequest, cache_root: str | Path) -> Provided:
    """The cache of `request` below `cache_root`, prepared where it is not there; with `plan_only`, only named.

    Messages and progress go to standard error. Raises errors of the tree; a failure leaves nothing behind.
    """
    store = CacheStore.at(cache_root)
    memory = DigestMemory(store.root)
    inputs = find_inputs(request, PluginHost.discover(), memory)
    manifest = store.find(inputs.digest)
    is_hit = manifest is not None
    if not is_hit and not request.plan_only:
        manifest, is_hit = _prepare(inputs, store)
    if not request.plan_only:
        memory.save()
    return Provided(_answer(inputs, store, manifest), inputs.key, is_hit)


def _prepare(inputs: Inputs, store: CacheStore) -> tuple[DatasetManifest, bool]:
    """Make the cache, or take the one that another process made while we waited for it."""
    # Here, and not above: a hit needs neither pyarrow nor tokenizers.
    from tunewright.dataset_cacher.preparing import prepare_cache
    from tunewright.dataset_cacher.progress import make_progress

    with make_progress() as progress:
        waiting = f"dataset {inputs.digest[:12]}: another process prepares it; waiting"
        with store.lock(inputs.digest, on_wait=lambda: progress.note(waiting)):
            if (manifest := store.find(inputs.digest)) is not None:
                return manifest, True
            return store.build(inputs.digest, lambda directory: prepare_cache(inputs, directory, progress)), False


def _answer(inputs: Inputs, store: CacheStore, manifest: DatasetManifest | None) -> CachedDataset:
    path = str(store.path_of(inputs.digest))
    if manifest is None:
        return CachedDataset(digest=inputs.digest, path=path)
    named = zip(inputs.sources, manifest.sources, strict=True)
    return CachedDataset(
        digest=inputs.digest,
        path=path,
        rows=manifest.rows,
        tokens=manifest.tokens,
        trained_tokens=manifest.trained_tokens,
        dropped=manifest.dropped,
        sources=tuple({"source": source.spec.source, **document} for source, document in named),
    )
