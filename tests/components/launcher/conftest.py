"""A project, with a stranger's plugin installed beside the built-in ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from components.launcher import harbour as harbours_plugin
from components.launcher import stranger as strangers_plugin
from components.launcher.project import Project, make_project


def install(directory: Path, name: str, module: str, version: str = "1.0") -> Path:
    """The metadata that `pip install` would leave: an entry point in the group `tunewright`."""
    metadata = directory / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (metadata / "entry_points.txt").write_text(f"[tunewright]\n{name} = {module}\n")
    return directory


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the stranger's plugin is installed."""
    return install(tmp_path_factory.mktemp("installed"), "stranger", strangers_plugin.__name__)


@pytest.fixture
def harbour(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project, with a cluster `harbour` that has arrays and dependencies."""
    monkeypatch.syspath_prepend(install(tmp_path / "harbour", "harbour", harbours_plugin.__name__))
    return project


@pytest.fixture
def project(tmp_path: Path, stranger: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A checkout to launch from; its jobs are ended with the test."""
    monkeypatch.syspath_prepend(stranger)
    made = make_project(tmp_path)
    monkeypatch.chdir(made.root)
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(made.home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))  # not the configuration of whoever runs the tests
    yield made
    made.end_jobs()
