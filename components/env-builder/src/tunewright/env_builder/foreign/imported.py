"""`imported.json` beside an imported environment: which file it came from, its pins, and each wheel with its digest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from pydantic import ValidationError

from tunewright.contracts.datasets import FileRecord
from tunewright.contracts.files import write_json_atomically
from tunewright.contracts.spec import Spec
from tunewright.env_builder.foreign.lock import ForeignPin, LeftOut

IMPORTED_FILE = "imported.json"
LOCK_FILE = "requirements.lock"

ASK_FOR_INSTALLED = (
    "import json, sys\nfrom importlib import metadata\n"
    "found = [[one.metadata['Name'], one.version, one.requires or []] for one in metadata.distributions()]\n"
    "json.dump(found, open(sys.argv[1], 'w'))\n"
)
"""A program for the environment: writes every distribution it has to the file it is given."""


class ImportedWheel(Spec):
    """One wheel of the environment."""

    name: str
    version: str
    file: str
    sha256: str
    built_here: bool
    """Whether it was built here from a source archive: then the lock's hash is the archive's."""


class ImportedRecord(Spec):
    """`imported.json`."""

    source: str
    """The file it was first built from, without its folder."""

    kind: str
    source_sha256: str
    pex_version: str
    pins: tuple[ForeignPin, ...]
    wheels: tuple[ImportedWheel, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()
    """What a package of it requires and it has not."""

    def write(self, directory: Path) -> None:
        """Write it into `directory`."""
        write_json_atomically(directory / IMPORTED_FILE, self.to_document())


def read_imported(directory: Path) -> ImportedRecord | None:
    """The record in `directory`, None where there is none that can be read."""
    try:
        return ImportedRecord.model_validate_json((directory / IMPORTED_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


@dataclass(frozen=True)
class Installed:
    """One distribution as the environment itself sees it."""

    version: str
    requires: tuple[str, ...]


def read_installed(path: Path) -> dict[str, Installed]:
    """What ASK_FOR_INSTALLED wrote, by normalised name."""
    found = json.loads(path.read_bytes())
    return {canonicalize_name(name): Installed(version, tuple(requires)) for name, version, requires in found}


def find_differences(pins: Iterable[ForeignPin], installed: Mapping[str, Installed]) -> list[str]:
    """Each pin that is not there, or there in another version."""
    differences = []
    for pin in pins:
        there = installed.get(pin.name)
        if there is None:
            differences.append(f"{pin.requirement}: is not there")
        elif not SpecifierSet(f"=={pin.version}").contains(there.version, prereleases=True):
            differences.append(f"{pin.requirement}: version {there.version} is there")
    return differences


def find_unmet(installed: Mapping[str, Installed], environment: Mapping[str, str]) -> list[str]:
    """What the distributions require here and is not there: `demo 1.0 requires idna>=2, which is not there`."""
    return [
        f"{name} {one.version} requires {requirement}, {missing}"
        for name, one in sorted(installed.items())
        for requirement in _readable(one.requires)
        if requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""})
        if (missing := _missing(requirement, installed))
    ]


def _readable(texts: Iterable[str]) -> Iterable[Requirement]:
    for text in texts:
        try:
            yield Requirement(text)
        except InvalidRequirement:
            continue


def _missing(requirement: Requirement, installed: Mapping[str, Installed]) -> str:
    there = installed.get(canonicalize_name(requirement.name))
    if there is None:
        return "which is not there"
    fits = requirement.specifier.contains(there.version, prereleases=True)
    return "" if fits else f"version {there.version} is there"


def wheels_of(files: Iterable[FileRecord], pins: Iterable[ForeignPin]) -> tuple[ImportedWheel, ...]:
    """The wheels among the PEX's files."""
    hashes = {pin.name: pin.hashes for pin in pins}
    wheels = []
    for record in files:
        try:
            name, version, _, _ = parse_wheel_filename(Path(record.file).name)
        except InvalidWheelFilename:
            continue
        built_here = f"sha256:{record.sha256}" not in hashes.get(name, ())
        wheels.append(
            ImportedWheel(
                name=name,
                version=str(version),
                file=Path(record.file).name,
                sha256=record.sha256,
                built_here=built_here,
            )
        )
    return tuple(wheels)
