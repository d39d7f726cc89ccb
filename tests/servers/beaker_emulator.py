"""An emulator of Beaker in a process of its own, and the unmodified client that talks to it."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from tunewright.beaker_emulator.starting import RunningEmulator, running_emulator

if TYPE_CHECKING:
    from beaker import Beaker


@contextmanager
def beaker_emulator(
    state: Path, fleet: Path | None = None, runner: str = "process", options: Sequence[str] = ()
) -> Iterator[RunningEmulator]:
    """A running emulator, with the client's variables set in this process's environment meanwhile.

    gRPC reads its roots once in a process, so every emulator of a test process has the same authority.
    """
    shared = ("--certificates", str(_certificates()), *options)
    with running_emulator(state, fleet, runner, shared) as running, mock.patch.dict(os.environ, running.variables):
        yield running


@functools.cache
def _certificates() -> Path:
    directory = tempfile.mkdtemp(prefix="beaker-certificates-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


@contextmanager
def beaker_client(running: RunningEmulator) -> Iterator[Beaker]:
    """The client as users have it."""
    from beaker import Beaker
    from beaker.config import Config

    with Beaker(Config.from_path(running.config_file), check_for_upgrades=False) as client:
        yield client
