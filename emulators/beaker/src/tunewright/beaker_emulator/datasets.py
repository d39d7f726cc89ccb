"""Files of datasets: how they are listed, and where one lies."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from beaker import beaker_pb2 as pb2

from tunewright.beaker_emulator.refusals import InvalidRequest, NotFound
from tunewright.beaker_emulator.store import Store


class DatasetFiles:
    """A view of the directories that hold datasets."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def path(self, dataset_id: str, name: str) -> Path:
        """Where a file of a dataset lies, or would."""
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise InvalidRequest(f"invalid file path {name!r}")
        return self._store.dataset_files(self._store.datasets.get(dataset_id).id) / name

    def existing(self, dataset_id: str, name: str) -> Path:
        """Where a file lies. NotFound where there is none."""
        path = self.path(dataset_id, name)
        if not path.is_file():
            raise NotFound(f"file {name!r} not found in dataset {dataset_id!r}")
        return path

    def listed(self, dataset_id: str, prefix: str) -> Iterator[pb2.DatasetFile]:
        """Every file whose path begins with `prefix`."""
        root = self._store.dataset_files(self._store.datasets.get(dataset_id).id)
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_file() and name.startswith(prefix):
                yield _described(path, name)

    def totals(self, dataset_id: str) -> tuple[int, int]:
        """How many files, and how many bytes."""
        sizes = [path.stat().st_size for path in self._store.dataset_files(dataset_id).rglob("*") if path.is_file()]
        return len(sizes), sum(sizes)


def _described(path: Path, name: str) -> pb2.DatasetFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
    message = pb2.DatasetFile(path=name, size=path.stat().st_size)
    message.digest.algorithm = pb2.DatasetFile.AlgorithmType.ALGORITHM_TYPE_SHA256
    message.digest.value = digest
    message.updated.FromNanoseconds(path.stat().st_mtime_ns)
    return message
