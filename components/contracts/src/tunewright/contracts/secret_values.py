"""Where a client finds the values of secrets that it passes on itself. They go to no file, plan or record."""

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
    directory = run_dir.parent.parent / "secrets" if run_dir.parent.name == "runs" else None
    return {variable: _value(variable, name, directory) for variable, name in references.items()}


def _value(variable: str, name: str, directory: Path | None) -> str:
    is_file_name = name not in ("", ".", "..") and "/" not in name and "\0" not in name
    path = directory / name if directory is not None and is_file_name else None
    if path is not None and path.is_file():
        value = _read_private(path, name)
    elif name in os.environ:
        value = os.environ[name]
    else:
        where = f"write it to {path} (mode 600), or " if path is not None else ""
        hint = f"{where}set the variable {name} for the launcher"
        raise SubmissionRefused(f"cluster.secrets.{variable}: there is no secret `{name}`", hint)
    if "\0" in value:
        raise SubmissionRefused(f"cluster.secrets.{variable}: the value of `{name}` has a NUL character in it")
    return value


def _read_private(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            # Asked of the open file: the name could be given to another one in between.
            mode = os.fstat(file.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise SubmissionRefused(f"secret `{name}`: {path} can be read by others", f"chmod 600 {path}")
            return os.fsdecode(file.read()).removesuffix("\n")
    except OSError as error:
        raise SubmissionRefused(f"secret `{name}`: cannot read {path}: {error.strerror}") from None
