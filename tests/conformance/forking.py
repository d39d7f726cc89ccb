"""Processes that start at once: forked off one that has imported torch, and all that a training needs, already."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing import forkserver
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import conformance.preloaded  # noqa: F401  (Pants must bring it: below it is a string)


def forking_context() -> Any:
    """What makes processes as `multiprocessing` does. They begin with the variables of the first call."""
    os.environ["OMP_NUM_THREADS"] = "1"  # with threads of torch's it could not be forked
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["conformance.preloaded"])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # what it cannot import it leaves out without a word
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    return context
