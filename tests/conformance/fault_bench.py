"""Runs one check of the conformance suite for a cluster with a fault, and ends for certain what that leaves."""

from __future__ import annotations

import inspect
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest

from conformance.cluster_suite import ClusterConformance
from tunewright.clusters.local.state_directory import StateDirectory
from tunewright.clusters.local.strays import end_strays, signal_supervisor
from tunewright.contracts.errors import TunewrightError

CAUGHT = (AssertionError, pytest.fail.Exception, TunewrightError, RuntimeError)
"""How a check may complain."""

ARGUMENTS: dict[str, Any] = {"code": 42, "manner": "deaf"}


class Faulty(ClusterConformance):
    """The suite, for a cluster that is chosen by each test. Not collected: its name does not begin with `Test`."""

    patience_seconds = 10.0
    memory_options: ClassVar = {"memory_gib": 0.125}
    time_limit_options: ClassVar = {"time_limit_seconds": 0.3}


def run_check(plugin: ModuleType, cluster: str, check: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one check of the suite, as pytest would, for `cluster` of `plugin`."""
    suite = type(cluster, (Faulty,), {"plugin": plugin, "name": cluster})()
    method = getattr(suite, f"test_{check}")
    bench = suite.make_bench(tmp_path)
    fixtures = {"bench": bench, "monkeypatch": monkeypatch, **ARGUMENTS}
    try:
        method(**{name: fixtures[name] for name in inspect.signature(method).parameters})
    finally:
        for state in tmp_path.glob("runs/**/local/*"):
            end_for_certain(state)


def end_for_certain(state: Path) -> None:
    """End a job whose cluster may not be able to: its supervisor by SIGKILL, and what that leaves by the right one."""
    directory = StateDirectory(state)
    for _ in range(500):
        document, is_supervised = directory.look()
        if not is_supervised:
            break
        signal_supervisor(document or {}, signal.SIGKILL)
        time.sleep(0.01)
    end_strays(directory.document() or {})
