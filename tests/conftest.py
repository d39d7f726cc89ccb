"""For every test: paths of imports are absolute, so that programs which tests start elsewhere find the same code.

Where tests fork processes, their server is forked once all test modules are imported, and no test has begun.
"""

from __future__ import annotations

import os
import sys

import pytest

sys.path[:] = [os.path.abspath(entry) for entry in sys.path if entry]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Where a test module has imported `conformance.forking`, begin its server: later this process has threads."""
    if "conformance.forking" in sys.modules:
        capture = session.config.pluginmanager.getplugin("capturemanager")
        capture.resume_global_capture()  # what the processes say belongs to the tests
        try:
            sys.modules["conformance.forking"].begin_fork_server()
        finally:
            capture.suspend_global_capture()
