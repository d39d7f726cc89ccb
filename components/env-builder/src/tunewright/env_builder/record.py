"""`environment.json` of a built environment, written last: what it is, what it was built from, each file's digest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tunewright.contracts.datasets import FileRecord
from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.errors import IntegrityError, NotFound, UsageError
from tunewright.contracts.files import sha256_of_tree, sync_directory, write_json_atomically

RECORD_FILE = "environment.json"
PEX_NAME = "trainer.pex"
IMPORTED_PEX_NAME = "environment.pex"
"""Of an environment whose packages another project's lock names, see `foreign/`."""

_KEY_LENGTH = 64
_SHOWN_DIFFERENCES = 10


class BuiltEnvironment(EnvironmentRef):
    """An environment that is there and known to start."""

    files: tuple[FileRecord, ...] = ()
    """Every file of the PEX: what differs can be named."""

    built_at: str
    """When, ISO 8601 in UTC."""

    build_seconds: float
    start_seconds: float
    """The first start, which unpacks it."""

    pants_version: str | None = None

    @property
    def plain(self) -> EnvironmentRef:
        """What the launcher asked for, without how it came about."""
        return EnvironmentRef(**{name: getattr(self, name) for name in EnvironmentRef.model_fields})


@dataclass(frozen=True)
class ProvidedEnvironment:
    """The environment asked for, and whether it had to be built."""

    reference: EnvironmentRef
    built: bool


@dataclass(frozen=True)
class EnvironmentPlace:
    """Where an environment lies: every path of it, in one class."""

    home: Path
    key: str

    @property
    def environments(self) -> Path:
        """The directory of all environments."""
        return self.home / "environments"

    @property
    def directory(self) -> Path:
        """This environment's own directory."""
        return self.environments / self.key

    @property
    def pex(self) -> Path:
        """The trainer's PEX, or where another project's environment lies here, that one."""
        imported = self.directory / IMPORTED_PEX_NAME
        return imported if imported.exists() else self.directory / PEX_NAME

    @property
    def log(self) -> Path:
        """What the build tool said."""
        return self.environments / f"{self.key}.log"

    @property
    def lock(self) -> Path:
        """Held by whoever builds it."""
        return self.environments / f".{self.key}.lock"

    @property
    def temporary(self) -> Path:
        """Where this process puts it together."""
        return self.environments / f".{self.key}.{os.getpid()}.tmp"

    def leftovers(self) -> list[Path]:
        """What builds that were killed left behind. Only whoever holds the lock may take it away."""
        return list(self.environments.glob(f".{self.key}.*.tmp"))

    @property
    def pex_root(self) -> Path:
        """Where PEXes of this home are unpacked when they first start."""
        return self.home / "pex_root"


def read_built(place: EnvironmentPlace) -> BuiltEnvironment | None:
    """The environment at `place`, None where none is whole. Cheap: `verify_built` reads all of it."""
    try:
        built = BuiltEnvironment.model_validate_json((place.directory / RECORD_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    return built if built.key == place.key and _starts(place.pex) else None


def _starts(pex: Path) -> bool:
    return (pex / "__main__.py").is_file() if pex.is_dir() else pex.is_file()


def file_records(pex: Path) -> tuple[FileRecord, ...]:
    """The record of each file of the PEX, a directory or one file, relative to where the PEX lies."""
    files = [pex] if pex.is_file() else sorted(path for path in pex.rglob("*") if path.is_file())
    return tuple(FileRecord.of(pex.parent, path.relative_to(pex.parent).as_posix()) for path in files)


def write_built(directory: Path, built: BuiltEnvironment) -> None:
    """Write the record into `directory`, last."""
    write_json_atomically(directory / RECORD_FILE, built.to_document())
    sync_directory(directory)


def verify_built(place: EnvironmentPlace) -> BuiltEnvironment:
    """Read every byte of the environment at `place`.

    Raises NotFound where none is whole, IntegrityError naming every file that differs.
    """
    built = read_built(place)
    if built is None:
        raise NotFound(f"{place.directory}: no whole environment (no fitting {RECORD_FILE}, or no {PEX_NAME})")
    actual = sha256_of_tree(place.pex)
    if actual != built.sha256:
        problems = [problem for record in built.files if (problem := record.problem(place.directory))]
        known = {record.file for record in built.files}
        strangers = [record.file for record in file_records(place.pex) if record.file not in known]
        problems += [f"{place.directory / name}: was not there when it was built" for name in strangers]
        shown = "".join(f"\n  {problem}" for problem in problems[:_SHOWN_DIFFERENCES]) or "\n  a mode or a link differs"
        raise IntegrityError(
            f"{place.pex}: sha256 is {actual}, must be {built.sha256}{shown}",
            f"remove {place.directory} and build it again",
        )
    return built


def list_built(home: Path) -> list[BuiltEnvironment]:
    """Every whole environment below `home`, the oldest first."""
    directories = sorted((home / "environments").glob("[0-9a-f]*"))
    found = (read_built(EnvironmentPlace(home, path.name)) for path in directories if len(path.name) == _KEY_LENGTH)
    return sorted((built for built in found if built), key=lambda built: built.built_at)


def find_place(home: Path, reference: str) -> EnvironmentPlace:
    """The place that `reference` means: a key, the beginning of exactly one, or a path.

    Raises NotFound for none, UsageError for a beginning that several have.
    """
    path = Path(reference)
    if path.exists():
        directory = path.resolve()
        directory = directory if (directory / RECORD_FILE).exists() else directory.parent
        return EnvironmentPlace(directory.parent.parent, directory.name)
    keys = [entry.name for entry in (home / "environments").glob("[0-9a-f]*") if len(entry.name) == _KEY_LENGTH]
    fitting = [key for key in keys if reference and key.startswith(reference)]
    if len(fitting) > 1:
        raise UsageError(f"`{reference}` begins {len(fitting)} environments: {', '.join(sorted(fitting))}")
    if not fitting:
        raise NotFound(f"`{reference}`: no such environment in {home / 'environments'}", "see `env-builder list`")
    return EnvironmentPlace(home, fitting[0])
