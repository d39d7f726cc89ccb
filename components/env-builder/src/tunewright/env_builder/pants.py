"""Calling Pants from a program that Pants itself may have started."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

_FROM_PANTS = frozenset(
    {
        "PANTS_BIN_NAME",
        "PANTS_BUILDROOT_OVERRIDE",
        "PANTS_CHROOT",
        "PANTS_CONCURRENT",
        "PANTS_DAEMON_ENTRYPOINT",
        "PANTS_ENTRYPOINT",
        "PANTS_PANTSD",
        "PANTS_RECURSION_LIMIT",
        "NO_SCIE_WARNING",
        # .pants.bootstrap sets these for the call it is sourced for.
        "TUNEWRIGHT_COMMIT",
        "TUNEWRIGHT_RUN_COMMIT",
        "TUNEWRIGHT_PEX_READY",
    }
)
"""What an outer Pants, its launcher or our own `./pants` leave in the environment of the program they start."""

_FROM_PYTHON = frozenset({"PEX", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PEX_UNVENDORED__"})
_PREFIXES = ("_PANTS_", "PANTSD_", "PEX_", "SCIE_")
_POLL_SECONDS = 0.2
_STOP_SECONDS = 20


def find_pants(root: Path) -> str | None:
    """The project's own `./pants`, else `pants` on PATH, else None."""
    own = root / "pants"
    return str(own) if own.is_file() and os.access(own, os.X_OK) else shutil.which("pants")


def inner_environment(outer: Mapping[str, str]) -> dict[str, str]:
    """`outer` for a program that has nothing to do with how this one was started.

    What an outer Pants or PEX left behind goes. Settings of the user's stay, PANTS_PYTHON_BOOTSTRAP_SEARCH_PATH,
    PANTS_PYTHON_REPOS_FIND_LINKS and PANTS_LOCAL_STORE_DIR among them.
    """
    kept = {
        name: value
        for name, value in outer.items()
        if name not in _FROM_PANTS and name not in _FROM_PYTHON and not name.startswith(_PREFIXES)
    }
    if "PEX" in outer and "VIRTUAL_ENV" in outer and "PATH" in outer:
        # A PEX puts its own `bin` first. PATH is part of what Pants caches by: torch would be installed anew.
        own = os.path.join(outer["VIRTUAL_ENV"], "bin")
        kept["PATH"] = os.pathsep.join(part for part in outer["PATH"].split(os.pathsep) if part != own)
    return kept


def package_command(pants: str, distdir: str, *targets: str) -> list[str]:
    """The arguments that make `targets` and put them into `distdir`, a path relative to the project."""
    return [pants, f"--pants-distdir={distdir}", "package", *targets]


def package_environment(outer: Mapping[str, str]) -> dict[str, str]:
    """What Pants gets: under `pants run` the outer one keeps pantsd to itself, and would be waited for in vain."""
    # Who asks for the CUDA image by name means it; `images::` leaves it out, see its BUILD file.
    return {**inner_environment(outer), "PANTS_CONCURRENT": "true", "TUNEWRIGHT_CUDA": "1"}


def run_logged(
    command: list[str], cwd: Path, environment: Mapping[str, str], log: Path, tick: Callable[[], None]
) -> int:
    """Run `command`, its output appended to `log`, calling `tick` a few times a second. Gives its exit code.

    Whatever ends this call early ends the command too.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while True:
                try:
                    return process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    tick()
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
