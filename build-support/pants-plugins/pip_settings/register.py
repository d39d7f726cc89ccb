"""Pants looks for packages where pip's configuration tells pip to look (`pip config set global.find-links PLACE`).

Pants runs pip apart from its settings, and has an option of its own (`[python-repos].find_links`), which still wins.
But where torch's CPU build comes from a local folder, pip knows the folder, and each `pants` must know it too: ./pants,
the official launcher, and a `pants` that pip installed. The variable PIP_FIND_LINKS does not reach this far, since
Pants's daemon has no variables of its caller's: .pants.bootstrap hands it on.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Tuple

from pants.backend.python.subsystems.repos import PythonRepos

_given_to_pants = PythonRepos.find_links.fget


@functools.cache
def _configured_for_pip() -> Tuple[str, ...]:
    for python in ("python3", sys.executable):
        try:
            asked = subprocess.run(
                [python, "-m", "pip", "config", "get", "global.find-links"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                check=False,
            )
        except OSError:
            continue
        if asked.returncode == 0:
            return tuple(asked.stdout.split())
    return ()


def rules():
    PythonRepos.find_links = property(lambda self: _given_to_pants(self) or _configured_for_pip())
    return []
