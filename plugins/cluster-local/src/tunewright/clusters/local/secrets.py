"""Where the values of secrets come from on this machine. They go to the supervisor through a pipe, and to no file."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from tunewright.contracts.errors import SubmissionRefused


def read_secrets(references: Mapping[str, str], run_dir: Path) -> dict[str, str]:
    """Variable to value. A secret NAME is the file `$TUNEWRIGHT_HOME/secrets/NAME`, else the variable NAME here.

    Raises SubmissionRefused naming the secret that is not to be had, or that others may read.
    """
    return {variable: _value(name, run_dir.parent.parent / "secrets") for variable, name in references.items()}


def _value(name: str, directory: Path) -> str:
    path = directory / name
    if "/" not in name and path.is_file():
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SubmissionRefused(f"secret `{name}`: {path} can be read by others", f"chmod 600 {path}")
        return path.read_text().rstrip("\n")
    if name in os.environ:
        return os.environ[name]
    hint = f"write it to {path} (mode 600), or set the variable {name} for the launcher"
    raise SubmissionRefused(f"cluster.secrets: there is no secret `{name}`", hint)
