"""Processes that start at once: forked off one that has imported torch, and all that a training needs, already."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import traceback
from collections.abc import Sequence
from multiprocessing import forkserver, resource_tracker, util
from typing import Any, NoReturn, cast
from unittest import mock

import conformance.preloaded  # noqa: F401


def begin_fork_server() -> None:
    """Fork the server off this process, which must have no other thread: before the first test.

    The tests' own process has imported all that it would have to import anew. What test modules import besides, its
    processes have at once, too.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # with threads of torch's it could not be forked
    resource_tracker.ensure_running()
    with mock.patch.object(util, "spawnv_passfds", _fork_server):
        forkserver.ensure_running()


def forking_context() -> Any:
    """What makes processes as `multiprocessing` does. They begin with the variables of the time before all tests."""
    return multiprocessing.get_context("forkserver")


def _fork_server(path: str, arguments: Sequence[str], descriptors: Sequence[int]) -> int:
    """What `multiprocessing` begins Python anew for; the descriptors are a socket to listen at, and a pipe's end."""
    pid = os.fork()
    if pid == 0:
        _serve(*descriptors)
    return pid


def _serve(listener: int, alive: int) -> NoReturn:
    import logging

    import torch

    code = 1
    try:
        _close_other_end(alive)  # nobody writes to it: it ends with the last process that has it
        # pytest keeps what is written to these, and what is logged, in its own memory.
        sys.stdin, sys.stdout, sys.stderr = sys.__stdin__, sys.__stdout__, sys.__stderr__
        logging.root.handlers.clear()
        torch.set_num_threads(1)
        cast(Any, forkserver).main(listener, alive, [])
    except SystemExit:
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def _close_other_end(pipe_end: int) -> None:
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the one that has listed them is closed
            if descriptor != pipe_end and os.path.sameopenfile(descriptor, pipe_end):
                os.close(descriptor)
