"""A workbench for each test, with one tokenizer for all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from servers.object_store import ObjectStore, serve_objects

from components.dataset_cacher.workbench import Workbench, make_tokenizer

# The same examples in every run, and no folder of examples left behind.
settings.register_profile("dataset_cacher", derandomize=True, database=None, deadline=None)
settings.load_profile("dataset_cacher")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with a small tokenizer."""
    return make_tokenizer(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture
def bench(tmp_path: Path, model: Path) -> Workbench:
    """An empty project."""
    project = tmp_path / "project"
    project.mkdir()
    return Workbench(project, model, tmp_path / "home" / "datasets")


@pytest.fixture(scope="session")
def objects() -> Iterator[ObjectStore]:
    """An object store for all tests: each has buckets of its own."""
    with serve_objects() as store:
        yield store


@pytest.fixture
def s3(objects: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The store, found by this process as a user's would find it."""
    for name, value in objects.environment.items():
        monkeypatch.setenv(name, value)
    _forget_file_systems()
    return objects


def _forget_file_systems() -> None:
    """fsspec keeps its file systems, and with them the variables they were made by."""
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()
