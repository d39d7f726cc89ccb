"""Fixtures of cluster `beaker`: one emulator of Beaker for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.beaker_emulator import beaker_client, beaker_emulator

from plugins.cluster_beaker.beaker_jobs import IMAGE, register_image
from tunewright.beaker_emulator.starting import RunningEmulator


@pytest.fixture(autouse=True)
def no_table_of_this_machines_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user has told of clusters must not matter to tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no-config"))


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    """An emulator with an image to run in; its programs are this machine's."""
    with beaker_emulator(tmp_path_factory.mktemp("beaker"), options=("--grace", "1")) as running:
        with beaker_client(running) as client:
            register_image(client, IMAGE)
        yield running
