"""From another project's file to an environment of ours: found where it was built before, built once where not."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.errors import EnvironmentBuildFailed, InvalidExperiment
from tunewright.contracts.files import sha256_of_file, sha256_of_tree, sync_directory
from tunewright.contracts.timestamps import utc_now
from tunewright.env_builder.building import alone, remove, sync_files, timed
from tunewright.env_builder.foreign.imported import (
    ASK_FOR_INSTALLED,
    LOCK_FILE,
    ImportedRecord,
    find_differences,
    find_unmet,
    read_imported,
    read_installed,
    wheels_of,
)
from tunewright.env_builder.foreign.key import key_of, requirements_text
from tunewright.env_builder.foreign.lock import ForeignLock, ForeignPin, SourceKind
from tunewright.env_builder.foreign.read import read_lock
from tunewright.env_builder.foreign.resolution import (
    Resolution,
    ensure_resolution,
    joined_pins,
    needs_resolution,
    read_resolution,
    refuse_loose,
)
from tunewright.env_builder.foreign.target import Selection, Target
from tunewright.env_builder.foreign.workshop import Workshop
from tunewright.env_builder.interpreter import VERSION_TEXT, find_base_interpreter, version_of
from tunewright.env_builder.progress import say
from tunewright.env_builder.record import (
    IMPORTED_PEX_NAME,
    BuiltEnvironment,
    EnvironmentPlace,
    file_records,
    read_built,
    write_built,
)

_SHOWN = 20


@dataclass(frozen=True)
class ForeignRequest:
    """The question: an environment of what this file pins."""

    source: Path
    """The other project's file."""

    project_root: Path
    """The checkout that pins Pex. Absolute."""

    home: Path
    """`$TUNEWRIGHT_HOME`. Absolute."""

    selection: Selection = field(default_factory=Selection)
    allow_unpinned: bool = False
    kind: SourceKind | None = None
    """The format, where the file's name and content do not tell."""

    plan_only: bool = False
    """Only say what it would be: build nothing, write nothing, open no socket."""


@dataclass(frozen=True)
class ForeignEnvironment:
    """The answer."""

    lock: ForeignLock
    """What the file says, and what of it is left out."""

    pins: tuple[ForeignPin, ...]
    """What is installed; in a plan, as far as it is known without asking an index."""

    reference: EnvironmentRef | None
    """None only in a plan, where an index has to be asked first."""

    built: bool
    notes: tuple[str, ...]


def ensure_foreign_environment(request: ForeignRequest) -> ForeignEnvironment:
    """The environment of the file, built where it is not there yet, by one process at a time.

    Raises NotFound, UsageError or InvalidExperiment for a file that cannot be used, EnvironmentBuildFailed with pip's
    own words where an index gives no such file or another one.
    """
    target = Target.here()
    lock = read_lock(request.source, request.selection, target, request.kind)
    if not (lock.pins or lock.loose):
        lines = "".join(f"\n  {one.what}: {one.why}" for one in lock.left_out[:_SHOWN])
        raise InvalidExperiment(f"{lock.source}: nothing of it can be carried over{lines}")
    if request.plan_only:
        return _planned(request, lock)
    if not request.allow_unpinned:
        refuse_loose(lock)
    pins, notes = lock.pins, lock.notes
    if needs_resolution(lock):
        resolution = ensure_resolution(request.home, request.project_root, lock)
        pins = joined_pins(lock, resolution, request.allow_unpinned)
        notes = (*notes, *_notes_about(lock, pins, resolution))
    place = EnvironmentPlace(request.home, key_of(pins))
    found, was_built = _ensure(request, place, lock, pins, target)
    return ForeignEnvironment(lock, pins, found, was_built, (*notes, *_notes_of(read_imported(place.directory))))


def _planned(request: ForeignRequest, lock: ForeignLock) -> ForeignEnvironment:
    """Unpinned lines show in a plan as they are: that is what a plan is for."""
    resolution = read_resolution(request.home, lock)
    if needs_resolution(lock) and resolution is None:
        ask = "an index must be asked first: the key is not known yet"
        return ForeignEnvironment(lock, lock.pins, None, False, (*lock.notes, ask))
    pins, notes = lock.pins, lock.notes
    if resolution is not None and needs_resolution(lock):
        pins = joined_pins(lock, resolution, allow_unpinned=True)
        notes = (*notes, *_notes_about(lock, pins, resolution))
    place = EnvironmentPlace(request.home, key_of(pins))
    reference = plan_foreign_environment(place)
    if found := read_built(place):
        reference = _as_recorded(reference, found)
    return ForeignEnvironment(lock, pins, reference, False, notes)


def plan_foreign_environment(place: EnvironmentPlace) -> EnvironmentRef:
    """What the environment at `place` will be, before it is there."""
    pex = place.directory / IMPORTED_PEX_NAME
    return EnvironmentRef(
        kind="pex",
        key=place.key,
        reference=str(pex),
        command=(find_base_interpreter() or f"python{VERSION_TEXT}", str(pex)),
        variables={"PEX_ROOT": str(place.pex_root)},
    )


def _as_recorded(planned: EnvironmentRef, found: BuiltEnvironment) -> EnvironmentRef:
    """What was built, at the place where it lies now: a home may have moved since."""
    now = {"reference": planned.reference, "command": planned.command, "variables": planned.variables}
    return found.plain.model_copy(update=now)


def _notes_of(record: ImportedRecord | None) -> list[str]:
    """What there is to know about an environment, whichever file led to it."""
    if record is None:
        return []
    made = [wheel for wheel in record.wheels if wheel.built_here]
    return [
        *(f"{wheel.name} {wheel.version} was built here from its source archive" for wheel in made),
        *record.unmet,
    ]


def _notes_about(lock: ForeignLock, pins: tuple[ForeignPin, ...], resolution: Resolution) -> list[str]:
    notes = []
    if unhashed := len(lock.pins) - lock.hashed:
        said = f"{unhashed} pin(s) have no hash in the file: those of what pip found then are recorded and checked"
        notes.append(f"{said} ({resolution.resolved_at})")
    if added := len(pins) - len(lock.pins):
        notes.append(f"{added} package(s) have no version in the file: resolved {resolution.resolved_at}, and recorded")
    return notes


def _ensure(
    request: ForeignRequest, place: EnvironmentPlace, lock: ForeignLock, pins: tuple[ForeignPin, ...], target: Target
) -> tuple[EnvironmentRef, bool]:
    planned = plan_foreign_environment(place)
    if found := read_built(place):
        return _as_recorded(planned, found), False
    with alone(place):
        if found := read_built(place):
            return _as_recorded(planned, found), False
        built = _build(planned, Workshop.at(request.project_root, place), request.source, lock, pins, target)
    return built.plain, True


def _build(
    planned: EnvironmentRef,
    workshop: Workshop,
    source: Path,
    lock: ForeignLock,
    pins: tuple[ForeignPin, ...],
    target: Target,
) -> BuiltEnvironment:
    """Build into a temporary directory, start it once, and rename it into place whole."""
    place = workshop.place
    remove(place.directory, *place.leftovers())
    place.temporary.mkdir()
    try:
        place.log.write_text("")
        say(f"building an environment of {len(pins)} package(s) from {lock.source}; log: {place.log}")
        requirements, pex = place.temporary / LOCK_FILE, place.temporary / IMPORTED_PEX_NAME
        requirements.write_text(requirements_text(pins))
        with timed() as build_seconds:
            workshop.build(requirements, pex)
        with timed() as start_seconds:
            unmet = _start_once(workshop, pex, pins, target)
        files = file_records(pex)
        ImportedRecord(
            source=source.name,
            kind=lock.kind,
            source_sha256=sha256_of_file(source),
            pex_version=workshop.pex_version,
            pins=pins,
            wheels=wheels_of(files, pins),
            left_out=lock.left_out,
            notes=lock.notes,
            unmet=tuple(unmet),
        ).write(place.temporary)
        built = BuiltEnvironment(
            **planned.model_dump(exclude={"sha256", "python", "lock_digest"}),
            sha256=sha256_of_tree(pex),
            python=version_of(planned.command[0]),
            lock_digest=sha256_of_file(requirements),
            files=files,
            built_at=utc_now(),
            build_seconds=round(build_seconds[0], 1),
            start_seconds=round(start_seconds[0], 1),
        )
        sync_files(place.temporary)
        write_built(place.temporary, built)
        place.temporary.rename(place.directory)
        sync_directory(place.environments)
    finally:
        remove(place.temporary)
    say(f"environment {place.key[:12]} built in {build_seconds[0]:.0f} s, first start {start_seconds[0]:.1f} s")
    return built


def _start_once(workshop: Workshop, pex: Path, pins: tuple[ForeignPin, ...], target: Target) -> list[str]:
    """Start it: it unpacks itself, and has what it should have. Gives what its packages lack."""
    answer = pex.with_name("installed.json")
    workshop.start(pex, ["-c", ASK_FOR_INSTALLED, str(answer)])
    installed = read_installed(answer)
    answer.unlink()
    if differences := find_differences(pins, installed):
        lines = "".join(f"\n  {one}" for one in differences[:_SHOWN])
        raise EnvironmentBuildFailed(f"the environment was built, and is not what was asked for:{lines}")
    return find_unmet(installed, target.environment)
