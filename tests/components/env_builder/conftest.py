"""A checkout for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.env_builder.checkout import Checkout, make_checkout


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """A committed checkout, with nothing built."""
    made = make_checkout(tmp_path)
    monkeypatch.setenv("PANTS_SEEN", str(made.seen))
    for name in ("PANTS_PYTHON_RESOLVES", "PANTS_CONFIG_FILES"):
        monkeypatch.delenv(name, raising=False)
    return made
