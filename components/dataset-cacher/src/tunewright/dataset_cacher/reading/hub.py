"""Datasets of the hub at a commit: what names one, and its rows as the Arrow files of the library `datasets`."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.contracts.errors import InvalidDataset, NotFound, Problem, TunewrightError, Unavailable
from tunewright.contracts.experiment import DatasetSource
from tunewright.dataset_cacher.reading.sources import DEFAULT_SPLIT, SourceFile, is_hub_id

ANSWER_SECONDS = 20

REFUSALS = {"GatedRepoError", "LocalTokenNotFoundError"}
MISSING = {"RepositoryNotFoundError", "RevisionNotFoundError", "DatasetNotFoundError", "DataFilesNotFoundError"}
NO_ANSWER = {"ConnectionError", "HTTPError", "Timeout", "TimeoutException", "TransportError", "OfflineModeIsEnabled"}
"""Names of classes of several libraries that stand for the same answer."""


@dataclass(frozen=True)
class HubDataset:
    """What decides the rows of a hub dataset: the commit fixes every file of it, and nothing else is read.

    `datasets` refuses data files that lie elsewhere, and never runs code of a dataset.
    """

    id: str
    revision: str
    """The commit, 40 hexadecimal digits."""

    config: str | None
    split: str

    def to_document(self) -> dict[str, Any]:
        """As the key of a cache holds it."""
        return {"id": self.id, "revision": self.revision, "config": self.config, "split": self.split}

    def __str__(self) -> str:
        return f"{self.id}@{self.revision[:12]}"


def find_hub_dataset(source: DatasetSource, project_root: Path) -> HubDataset | None:
    """The hub dataset that `source` means, None where it means files. Nothing is asked of any network."""
    text = source.source
    if source.revision is None or not is_hub_id(text) or (project_root / text).exists():
        return None
    return HubDataset(text, source.revision, source.config, source.split or DEFAULT_SPLIT)


def fetch_hub_files(hub: HubDataset, field: str) -> tuple[SourceFile, ...]:
    """The Arrow files of its rows, in order, downloaded and converted where they are not in the local cache.

    Raises NotFound, InvalidDataset or Unavailable with `field`, the path of the source in the experiment.
    """
    dataset = _load(hub, field)
    paths = [Path(one["filename"]) for one in dataset.cache_files]
    if not paths:
        raise _invalid(f"{field}.split", f"split `{hub.split}` of {hub} has no rows")
    # Where it cannot load a commit, `datasets` takes the latest one that it finds on the disk.
    if any(hub.revision not in path.parts for path in paths):
        words = f"{field}.source: {hub} could not be loaded; of another commit in the local cache nothing is taken"
        raise Unavailable(words, "is the network up, and can `datasets` read it?")
    return tuple(SourceFile(str(path), f"{hub}/{path.name}", "arrow") for path in paths)


def _load(hub: HubDataset, field: str) -> Any:
    # Progress bars and warnings of its own would break our progress.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    try:
        import datasets
    except ImportError:
        message = f"`{hub.id}`: a dataset of the hub needs the package datasets"
        raise _invalid(f"{field}.source", message, "pip install datasets") from None
    try:
        _ask_for(hub)
        logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)
        return datasets.load_dataset(hub.id, name=hub.config, split=hub.split, revision=hub.revision)
    except Exception as error:
        raise _as_ours(hub, field, error) from None


def _ask_for(hub: HubDataset) -> None:
    """One question to the hub: `datasets` would try for minutes before it says that nobody answers."""
    from huggingface_hub import HfApi, constants

    if not constants.HF_HUB_OFFLINE:
        HfApi().dataset_info(hub.id, revision=hub.revision, timeout=ANSWER_SECONDS)


def _as_ours(hub: HubDataset, field: str, error: Exception) -> TunewrightError:
    """An error of `datasets`, or of what it stands on: there are many kinds, told apart by name."""
    reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"
    kinds = {one.__name__ for one in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if kinds & REFUSALS or status in (401, 403) or "gated" in reason.lower():
        hint = "does it exist? Ask for access on its page, and set HF_TOKEN"
        return Unavailable(f"{field}.source: the hub refuses {hub}: {reason}", hint)
    if kinds & MISSING:
        return NotFound(f"{field}.source: {hub} is not on the hub: {reason}", "a private dataset needs HF_TOKEN")
    if kinds & NO_ANSWER:
        hint = "is the network up? What was loaded before is taken with HF_HUB_OFFLINE=1"
        return Unavailable(f"{field}.source: {hub} could not be had: {reason}", hint)
    if "split" in reason.lower():
        return _invalid(f"{field}.split", f"of {hub}: {reason}")
    if "config" in reason.lower():
        return _invalid(f"{field}.config", f"of {hub}: {reason}")
    return _invalid(f"{field}.source", f"{hub} cannot be read: {reason}")


def _invalid(path: str, message: str, hint: str = "") -> InvalidDataset:
    return InvalidDataset(f"{path}: {message}", hint, (Problem(path, message, hint),))
