"""A store's own promises: finished parts outlive a kill, nothing half-written has a name, a hit is quick."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from components.dataset_cacher.workbench import Workbench, bytes_below, conversation
from tunewright.contracts.datasets import DatasetManifest, read_manifest
from tunewright.contracts.errors import InvalidDataset, Unavailable
from tunewright.dataset_cacher.provide import Provided
from tunewright.dataset_cacher.storage.store import CacheStore


@pytest.fixture
def made(bench: Workbench) -> Provided:
    """A cache to be filled in elsewhere."""
    bench.write("rows.jsonl", [conversation("why?", "because")])
    return bench.provide({"source": "rows.jsonl"})


def copy_of(made: Provided, directory: Path) -> DatasetManifest:
    source = Path(made.dataset.path)
    manifest = read_manifest(source)
    for record in manifest.files:
        (directory / record.file).write_bytes((source / record.file).read_bytes())
    return manifest


def test_finished_parts_outlive_a_kill_and_go_away_when_all_is_done(made: Provided, tmp_path: Path) -> None:
    store, digest = CacheStore.at(tmp_path / "root"), made.dataset.digest

    def killed(directory: Path, work: Path) -> DatasetManifest:
        (directory / "tokens-00000.arrow").write_bytes(b"half")
        (work / "part-1").write_bytes(b"finished")
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    child = os.fork()
    if child == 0:
        try:
            with store.lock(digest, print):
                store.build(digest, killed)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert store.find(digest) is None and store.digests() == []

    def go_on(directory: Path, work: Path) -> DatasetManifest:
        assert list(directory.iterdir()) == [] and (work / "part-1").read_bytes() == b"finished"
        return copy_of(made, directory)

    with store.lock(digest, print):
        manifest = store.build(digest, go_on)
    assert store.find(digest) == manifest == store.verify(digest)
    assert bytes_below(store.path_of(digest)) == bytes_below(Path(made.dataset.path))
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == [f".{digest}.lock", digest]


@pytest.mark.parametrize(
    ("error", "stays"),
    [(InvalidDataset("row 3 is no row"), False), (Unavailable("the storage is away"), True),
     (OSError("the disk is full"), True), (KeyboardInterrupt(), True)],
)  # fmt: skip
def test_only_an_error_of_the_data_takes_the_finished_parts_away(
    error: BaseException, stays: bool, tmp_path: Path
) -> None:
    store, digest = CacheStore.at(tmp_path), "a" * 64

    def fill(_directory: Path, work: Path) -> DatasetManifest:
        (work / "part-1").write_bytes(b"finished")
        raise error

    with pytest.raises(type(error)), store.lock(digest, print):
        store.build(digest, fill)
    expected = [f".{digest}.lock", *([f".{digest}.work"] if stays else [])]
    assert sorted(path.name for path in tmp_path.iterdir()) == expected


def test_a_hit_removes_what_a_preparer_left_that_was_killed_when_all_was_done(made: Provided) -> None:
    path = Path(made.dataset.path)
    store, work = CacheStore.at(path.parent), path.with_name(f".{path.name}.work")
    work.mkdir()
    with store.lock(path.name, print):
        assert store.find(path.name) is not None and work.is_dir()
    assert store.find(path.name, plan_only=True) is not None and work.is_dir()
    assert store.find(path.name) is not None and not work.exists()


def test_of_two_writers_of_one_directory_the_first_stays_and_the_other_takes_it(made: Provided, tmp_path: Path) -> None:
    store, digest = CacheStore.at(tmp_path), made.dataset.digest

    def slower(directory: Path, _work: Path) -> DatasetManifest:
        manifest = store.build(digest, lambda other, _work: copy_of(made, other))
        inode.append(store.path_of(digest).stat().st_ino)
        directory.mkdir()  # the quicker one took what it found for a dead one's
        return copy_of(made, directory).model_copy(update={"rows": manifest.rows + 1})

    inode: list[int] = []
    manifest = store.build(digest, slower)
    assert manifest == store.find(digest) == read_manifest(Path(made.dataset.path))
    assert [store.path_of(digest).stat().st_ino] == inode


def test_a_hit_reads_the_manifest_alone_however_large_the_files_are(bench: Workbench) -> None:
    bench.write("rows.jsonl", [conversation("why?", f"because of {number} " * 100) for number in range(500)])
    dataset = bench.provide({"source": "rows.jsonl"}).dataset
    path = Path(dataset.path)
    manifest_bytes = (path / "manifest.json").stat().st_size
    assert sum(file.stat().st_size for file in path.iterdir()) > 10 * manifest_bytes
    store = CacheStore.at(path.parent)
    assert store.find(dataset.digest) is not None  # what is imported late has been read with it
    before = _read_bytes()
    assert store.find(dataset.digest) is not None
    assert manifest_bytes <= _read_bytes() - before < 2 * manifest_bytes


def _read_bytes() -> int:
    """What this process has read from files so far."""
    return int(Path("/proc/self/io").read_text().split()[1])
