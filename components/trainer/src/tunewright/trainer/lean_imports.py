"""What keeps a start short: libraries that other libraries import for nothing, left out or made cheap."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

_NO_COMPILER = "TORCHDYNAMO_DISABLE"


@contextlib.contextmanager
def not_installed(package: str) -> Iterator[None]:
    """As if `package` were not installed. Without effect where this process has imported it already."""
    modules: dict[str, Any] = sys.modules
    if package in modules:
        yield
        return
    modules[package] = None  # Python's own way to say so: an import fails, a search finds nothing
    try:
        yield
    finally:
        del modules[package]


def import_bitsandbytes() -> None:
    """Import bitsandbytes where it is installed, without torch's compiler: to be called before peft is imported.

    peft imports it whatever the adapters are. To be imported it asks torch to compile two functions, which takes five
    times as long as all else of it; they are for devices that it has no kernels for, and as good as they stand.
    """
    if "bitsandbytes" in sys.modules or importlib.util.find_spec("bitsandbytes") is None:
        return
    importlib.import_module("torch._dynamo")  # it keeps what the variable says when it is imported
    before = os.environ.get(_NO_COMPILER)
    os.environ[_NO_COMPILER] = "1"
    try:
        importlib.import_module("bitsandbytes")
    finally:
        if before is None:
            del os.environ[_NO_COMPILER]
        else:
            os.environ[_NO_COMPILER] = before
