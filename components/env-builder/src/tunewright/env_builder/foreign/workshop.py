"""Pex at work: the project's own pinned one, with a Python of this machine, asked by argument lists and logged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.errors import PreflightFailed
from tunewright.env_builder.building import compile_start_file, failed, log_command
from tunewright.env_builder.interpreter import VERSION_TEXT, find_base_interpreter
from tunewright.env_builder.pants import inner_environment, run_logged
from tunewright.env_builder.progress import showing
from tunewright.env_builder.record import EnvironmentPlace

_BOOTSTRAP = Path("build-support/bootstrap")
_SCRIPT = _BOOTSTRAP / "ensure-pex.sh"
_PEX_LOCK = _BOOTSTRAP / "pex.lock"
_PEX_DIRECTORY = ".pants.bootstrap.d"
_HASHES_DIFFER = "DO NOT MATCH THE HASHES"
_OTHER_FILES = "under these versions there are other files than those the lock was made from: do not use them unseen"

# Where packages come from, pip's configuration says: find-links, certificates, indexes.
_COMMON = ("--use-pip-config", "--no-emit-warnings")
# A wheel goes into the PEX as the index gave it, byte for byte: its digest in the record is the one in the lock.
_BUILD = (
    "--intransitive",
    "--ignore-errors",
    "--layout=packed",
    "--venv=prepend",
    "--no-pre-install-wheels",
    "--no-compile",
    "--no-use-system-time",
    f"--python-shebang=/usr/bin/env python{VERSION_TEXT}",
)
_RESOLVE = ("--style=strict", "--resolver-version=pip-2020-resolver")


@dataclass(frozen=True)
class Workshop:
    """What works here: a Python, a Pex, and where their words go."""

    root: Path
    """The checkout that pins Pex."""

    python: str
    place: EnvironmentPlace

    @classmethod
    def at(cls, root: Path, place: EnvironmentPlace) -> Workshop:
        """The workshop for `place`. Raises PreflightFailed where Pex or Python is not to be had."""
        if not (root / _SCRIPT).is_file():
            message = f"{root}: has no {_SCRIPT}, which makes Pex"
            raise PreflightFailed(message, "call this from inside a checkout of Tunewright")
        python = find_base_interpreter()
        if python is None:
            raise PreflightFailed(f"there is no Python {VERSION_TEXT} on PATH", "install it; see ./pants")
        return cls(root, python, place)

    @property
    def pex_version(self) -> str:
        """The version of Pex that the project pins."""
        first = (self.root / _PEX_LOCK).read_text().split()[0]
        return first.removeprefix("pex==")

    @property
    def _pex(self) -> Path:
        return self.root / _PEX_DIRECTORY / f"pex-{self.pex_version}.pex"

    def resolve(self, requirements: Path, output: Path) -> None:
        """Write to `output` what pip would install for `requirements`, with hashes, as Pex's own lock."""
        arguments = ["lock", "create", *_COMMON, *_RESOLVE, f"--python={self.python}"]
        self._run_pex([*arguments, "-r", str(requirements), "-o", str(output)], "resolving", {"PEX_SCRIPT": "pex3"})

    def build(self, requirements: Path, output: Path) -> None:
        """Make `output`, a PEX of exactly `requirements`."""
        arguments = [*_COMMON, *_BUILD, f"--python={self.python}"]
        self._run_pex([*arguments, "-r", str(requirements), "-o", str(output)], "building the environment", {})
        if not output.exists():
            raise failed(f"Pex made no {output.name}", self.place.log)

    def start(self, pex: Path, arguments: Sequence[str]) -> None:
        """Start `pex`, which unpacks itself the first time."""
        compile_start_file(pex)
        command = [self.python, str(pex), *arguments]
        if code := self._run(command, "starting it for the first time", {}):
            raise failed(f"the environment was built but does not start: it ended with {code}", self.place.log)

    def _run_pex(self, arguments: list[str], what: str, variables: dict[str, str]) -> None:
        self._ensure_pex()
        command = [self.python, str(self._pex), *arguments]
        if code := self._run(command, what, variables):
            hint = _OTHER_FILES if _HASHES_DIFFER in self.place.log.read_text(errors="replace") else ""
            raise failed(f"{what} failed: Pex ended with {code}", self.place.log, hint)

    def _ensure_pex(self) -> None:
        if self._pex.is_file():
            return
        command = ["bash", str(self.root / _SCRIPT), self.python, str(self._pex.parent)]
        if code := self._run(command, "making Pex", {}):
            raise failed(f"`{_SCRIPT}` ended with {code}", self.place.log)

    def _run(self, command: list[str], what: str, variables: dict[str, str]) -> int:
        # A relative place in pip's configuration is meant from where the user is.
        environment = {**inner_environment(os.environ), "PEX_ROOT": str(self.place.pex_root), **variables}
        log_command(self.place.log, command)
        with showing(what, self.place.log) as tick:
            return run_logged(command, Path.cwd(), environment, self.place.log, tick)
