"""Everything on this machine that decides which cache an experiment gets: what a quick hit compares."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path

from tunewright.contracts.datasets import MANIFEST_FILE, DatasetManifest
from tunewright.contracts.experiment_file import LoadedExperiment
from tunewright.dataset_cacher.inputs import Inputs, SourceInputs
from tunewright.dataset_cacher.quick_hits import Watched, watch
from tunewright.dataset_cacher.tokens.tokenizer_files import FILES


def watched_of(loaded: LoadedExperiment, inputs: Inputs, manifest: DatasetManifest, cache: str) -> Watched | None:
    """What decided that `loaded` has this cache, as it is now; None where not all of it is files of this machine."""
    root = loaded.project_root
    if "://" in cache or any(source.hub is not None or _is_remote(source) for source in inputs.sources):
        return None
    files = [str(loaded.path), *(str(inputs.tokenizer.directory / name) for name in FILES)]
    for source in inputs.sources:
        files += [file.location for file in source.files]
        files += _directories(root / Path(source.spec.source).expanduser())
    files += [os.path.join(cache, name) for name in (MANIFEST_FILE, *(record.file for record in manifest.files))]
    existing = [*_markers(loaded), str(root / loaded.dataset_model.name_or_path)]
    return watch(files, existing)


def _is_remote(source: SourceInputs) -> bool:
    return any(file.is_remote for file in source.files)


def _directories(path: Path) -> list[str]:
    """Where a file that appears would belong to the source: the directories of a directory, or of a glob."""
    if path.is_file():
        return []
    while glob.has_magic(str(path)):
        path = path.parent
    return [str(path), *(directory for directory, _, _ in os.walk(path))]


def _markers(loaded: LoadedExperiment) -> Iterator[str]:
    """What says where the project's root is, or would."""
    for start in (loaded.path.parent, Path.cwd()):
        for directory in (start, *start.parents):
            yield str(directory / ".git")
            if directory == loaded.project_root:
                break
