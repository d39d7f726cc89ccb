"""Fixtures of cluster `sagemaker`: one service for all tests of a process; its jobs end with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.object_store import ObjectStore, serve_objects
from servers.programs import need_program

from plugins.cluster_sagemaker import training_service


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A service whose training jobs run."""
    need_program("unshare", "util-linux")
    directory: Path = tmp_path_factory.mktemp("sagemaker")
    with serve_objects(training_service.__file__, str(directory)) as service:
        yield service


@pytest.fixture
def aws(training: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """The same, found by the client's variables."""
    for name, value in training.environment.items():
        monkeypatch.setenv(name, value)
    return training
