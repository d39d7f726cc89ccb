"""A third-party folder for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.env_builder_locks.third_party import ThirdParty


@pytest.fixture
def third_party(tmp_path: Path) -> ThirdParty:
    """An empty third-party folder."""
    return ThirdParty(tmp_path)
