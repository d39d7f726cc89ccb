"""A hub and a home for each test; nothing of the user's cache, token or settings reaches them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from servers.model_hub import ModelHub

from components.env_builder_models.hosted import Workbench


@pytest.fixture(autouse=True)
def _nothing_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in os.environ:
        if name.startswith(("HF_", "TRANSFORMERS_", "HUGGING")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "*")
    # Read once, when the library was imported.
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    huggingface_hub.close_session()
    yield
    huggingface_hub.close_session()


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    with ModelHub() as serving:
        yield serving


@pytest.fixture
def bench(hub: ModelHub, tmp_path: Path) -> Workbench:
    """A hub without models, and a home that is not there yet."""
    return Workbench(hub, tmp_path / "home")
