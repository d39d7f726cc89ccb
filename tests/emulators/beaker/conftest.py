"""One emulator for all tests that do not stop it, and the unmodified client."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from beaker import Beaker
from servers.beaker_emulator import beaker_client, beaker_emulator

from tunewright.beaker_emulator.starting import RunningEmulator


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEmulator]:
    """With a short grace, so that what ignores SIGTERM ends soon."""
    with beaker_emulator(tmp_path_factory.mktemp("beaker"), options=("--grace", "1")) as running:
        yield running


@pytest.fixture(scope="session")
def client(emulator: RunningEmulator) -> Iterator[Beaker]:
    """Over gRPC with TLS, and HTTP."""
    with beaker_client(emulator) as connected:
        yield connected
