"""A workbench for each test, with one tokenizer for all."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

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
