"""Pants looks for packages where pip is told to look: in the places of PIP_FIND_LINKS, or of pip's own settings.

Pants runs pip apart from its settings, and has an option of its own (`[python-repos].find_links`), which still wins.
But where torch's CPU build comes from a local folder, pip knows the folder, and each `pants` must know it too: ./pants,
the official launcher, and a `pants` that pip installed.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from typing import Tuple

from pants.backend.python.subsystems.repos import PythonRepos

_given_to_pants = PythonRepos.find_links.fget


@functools.cache
def _given_to_pip() -> Tuple[str, ...]:
    return tuple((os.environ.get("PIP_FIND_LINKS") or _setting("global.find-links")).split())


def _setting(name: str) -> str:
    for python in ("python3", sys.executable):
        try:
            asked = subprocess.run(
                [python, "-m", "pip", "config", "get", name],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                check=False,
            )
        except OSError:
            continue
        if asked.returncode == 0:
            return asked.stdout
    return ""


def rules():
    PythonRepos.find_links = property(lambda self: _given_to_pants(self) or _given_to_pip())
    return []
