"""One project for all tests: they share its environment and its dataset caches, as a user's runs do."""

from __future__ import annotations

from typing import Any

import pytest

from e2e.packaged import SHORT, Project, make_project


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A committed checkout of the examples, with the packaged programs."""
    return make_project(tmp_path_factory.mktemp("e2e"))


@pytest.fixture(scope="session")
def quickstart(project: Project) -> dict[str, Any]:
    """A short run of the quickstart, named `quickstart`: what lora.toml and qlora.toml start from."""
    return project.launch("examples/quickstart.toml", *SHORT)
