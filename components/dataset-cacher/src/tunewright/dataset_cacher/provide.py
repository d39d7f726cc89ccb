"""A request to its cache: found, waited for, or made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunewright.contracts.datasets import CachedDataset, DatasetManifest, DatasetRequest
from tunewright.contracts.experiment_file import find_home
from tunewright.contracts.plugins import PluginHost
from tunewright.dataset_cacher.inputs import Inputs, find_inputs, with_hub_files
from tunewright.dataset_cacher.reading.digests import DigestMemory
from tunewright.dataset_cacher.storage.store import CacheStore


@dataclass(frozen=True)
class Means:
    """What a preparation may use. It decides no byte of the cache."""

    executor: Literal["local", "ray"] = "local"
    """Who encodes the parts: this machine, or the Ray cluster that is running."""

    num_processes: int | None = None
    """The most processes on this machine. None for one on each core."""


LOCAL = Means()


@dataclass(frozen=True)
class Provided:
    """The cache of a request."""

    dataset: CachedDataset
    inputs: Inputs
    """What it was made from."""

    manifest: DatasetManifest | None
    is_hit: bool
    """Whether it was there already, or another process made it meanwhile."""

    @property
    def key(self) -> dict[str, Any]:
        """Everything the digest covers."""
        return self.inputs.key


def provide_dataset(
    request: DatasetRequest, cache_root: str | Path, is_paranoid: bool = False, means: Means = LOCAL
) -> Provided:
    """The cache of `request` below `cache_root`, prepared where it is not there; with `plan_only`, only named.

    With `is_paranoid` every source is read again, whatever is remembered of it.

    Messages and progress go to standard error. Raises errors of the tree; a failure leaves nothing behind.
    """
    store = CacheStore.at(cache_root, find_home(Path(request.project_root)))
    memory = DigestMemory(store.memory, is_trusted=not is_paranoid)
    inputs = find_inputs(request, PluginHost.discover(), memory)
    manifest = store.find(inputs.digest, request.plan_only)
    is_hit = manifest is not None
    if not is_hit and not request.plan_only:
        manifest, is_hit = _prepare(inputs, store, memory, means)
    if not request.plan_only:
        memory.save()
    return Provided(_answer(inputs, store, manifest), inputs, manifest, is_hit)


def _prepare(inputs: Inputs, store: CacheStore, memory: DigestMemory, means: Means) -> tuple[DatasetManifest, bool]:
    """Make the cache, or take the one that another process made while we waited for it."""
    # Here, and not above: a hit needs neither pyarrow nor tokenizers.
    from tunewright.dataset_cacher.preparation.executors import make_executor
    from tunewright.dataset_cacher.preparation.parts import PartStore
    from tunewright.dataset_cacher.preparation.preparing import Work, prepare_cache
    from tunewright.dataset_cacher.preparation.progress import make_progress
    from tunewright.dataset_cacher.reading.unpacking import with_unpacked_files

    with make_progress() as progress:
        executor = make_executor(means.executor, means.num_processes, progress.note)

        def tell_of(who: str) -> None:
            progress.note(f"dataset {inputs.digest[:12]}: another process prepares it ({who}); waiting")

        def fill(directory: Path, parts: Path) -> DatasetManifest:
            fetched = with_unpacked_files(with_hub_files(inputs, memory), parts)
            scans = tuple(tuple(memory.scan_of(file) for file in source.files) for source in fetched.sources)
            work = Work(fetched, scans, PartStore(parts), executor, progress)
            return prepare_cache(work, directory)

        with store.lock(inputs.digest, tell_of):
            if (manifest := store.find(inputs.digest)) is not None:
                return manifest, True
            return store.build(inputs.digest, fill), False


def _answer(inputs: Inputs, store: CacheStore, manifest: DatasetManifest | None) -> CachedDataset:
    path = store.location_of(inputs.digest)
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
