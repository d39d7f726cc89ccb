"""The Python that starts the trainer's PEX: a real one, outside any virtual environment that may go away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

PYTHON_VERSION = (3, 11)
"""What the repository's code runs on, see `[python].interpreter_constraints` in `pants.toml`."""

VERSION_TEXT = ".".join(map(str, PYTHON_VERSION))


def find_base_interpreter() -> str | None:
    """The absolute path of a Python 3.11: the one under this program, else the one on PATH, else None."""
    if sys.version_info[:2] == PYTHON_VERSION:
        # The environment this program runs in (a PEX's own, often) may be cleaned away; what is below it stays.
        base = getattr(sys, "_base_executable", None) or sys.executable
        return os.path.realpath(base)
    found = shutil.which(f"python{VERSION_TEXT}")
    return os.path.realpath(found) if found else None


def version_of(interpreter: str) -> str:
    """The interpreter's full version, `3.11.7`."""
    if os.path.realpath(sys.executable) == interpreter:
        return ".".join(map(str, sys.version_info[:3]))
    command = [interpreter, "-I", "-c", "import platform; print(platform.python_version())"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
