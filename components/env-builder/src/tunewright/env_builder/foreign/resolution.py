"""What an index answered once for pins without hashes and names without versions: recorded, so that it stays so."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from packaging.utils import canonicalize_name
from pydantic import ValidationError

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.files import write_json_atomically
from tunewright.contracts.spec import Spec
from tunewright.contracts.timestamps import utc_now
from tunewright.env_builder.building import remove
from tunewright.env_builder.exclusive import held
from tunewright.env_builder.foreign.key import resolution_key_of
from tunewright.env_builder.foreign.lock import ForeignLock, ForeignPin
from tunewright.env_builder.foreign.poetry_graph import plain_name
from tunewright.env_builder.foreign.workshop import Workshop
from tunewright.env_builder.progress import say
from tunewright.env_builder.record import EnvironmentPlace

_SHOWN = 20
ALLOW_HINT = "pin them in the file, or give --allow-unpinned: they are resolved once, and what was found is recorded"


class ResolvedPackage(Spec):
    """One package that pip would install."""

    name: str
    version: str
    hashes: tuple[str, ...]
    requires: tuple[str, ...] = ()
    """Normalised names of what it depends on."""


class Resolution(Spec):
    """The record of one answer."""

    key: str
    packages: tuple[ResolvedPackage, ...]
    resolved_at: str
    """When, ISO 8601 in UTC."""


def path_of(home: Path, key: str) -> Path:
    """Where the resolution `key` is recorded."""
    return home / "resolutions" / f"{key}.json"


def needs_resolution(lock: ForeignLock) -> bool:
    """Whether an index must be asked before anything can be built from `lock`."""
    return bool(lock.loose) or lock.hashed < len(lock.pins)


def refuse_loose(lock: ForeignLock) -> None:
    """Raise InvalidExperiment naming every line without an exact version."""
    problems = [Problem(one.where, f"`{one.requirement}` has no exact version (`==`)") for one in lock.loose]
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        raise InvalidExperiment(f"{lock.source}: {len(problems)} unpinned{lines}", ALLOW_HINT, problems)


def read_resolution(home: Path, lock: ForeignLock) -> Resolution | None:
    """What was answered for `lock` before, None where it was not asked yet."""
    key = resolution_key_of(lock)
    try:
        found = Resolution.model_validate_json(path_of(home, key).read_bytes())
    except (OSError, ValidationError):
        return None
    return found if found.key == key else None


def ensure_resolution(home: Path, root: Path, lock: ForeignLock) -> Resolution:
    """What pip would install for `lock`, asked for where it is not recorded yet.

    Raises EnvironmentBuildFailed with pip's own words where there is no answer.
    """
    if found := read_resolution(home, lock):
        return found
    place = EnvironmentPlace(home, resolution_key_of(lock))
    with held(place.lock, f"another process resolves this file; waiting for it (log: {place.log})"):
        if found := read_resolution(home, lock):
            return found
        return _resolve(Workshop.at(root, place), lock)


def _resolve(workshop: Workshop, lock: ForeignLock) -> Resolution:
    place = workshop.place
    remove(*place.leftovers())
    place.temporary.mkdir()
    try:
        place.log.write_text("")
        say(f"asking pip for {_asked_for(lock)}; log: {place.log}")
        requirements, output = place.temporary / "requirements.in", place.temporary / "lock.json"
        requirements.write_text("".join(f"{line}\n" for line in _questions(lock)))
        workshop.resolve(requirements, output)
        packages = _answers(json.loads(output.read_bytes()))
        resolution = Resolution(key=place.key, packages=packages, resolved_at=utc_now())
        path = path_of(place.home, place.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomically(path, resolution.to_document())
        return resolution
    finally:
        remove(place.temporary)


def _asked_for(lock: ForeignLock) -> str:
    unhashed = len(lock.pins) - lock.hashed
    parts = [f"the hashes of {unhashed} pin(s)"] if unhashed else []
    return " and ".join([*parts, f"{len(lock.loose)} version(s)"] if lock.loose else parts)


def _questions(lock: ForeignLock) -> Iterable[str]:
    for pin in lock.pins:
        yield f"{pin.name}[{','.join(pin.extras)}]=={pin.version}" if pin.extras else pin.requirement
    yield from (one.requirement for one in lock.loose)


def _answers(pex_lock: dict[str, list[dict[str, list[dict[str, object]]]]]) -> tuple[ResolvedPackage, ...]:
    """The packages of Pex's lock, without the addresses of their files."""
    (resolve,) = pex_lock["locked_resolves"]
    return tuple(sorted(map(_answer, resolve["locked_requirements"]), key=lambda package: package.name))


def _answer(locked: dict[str, object]) -> ResolvedPackage:
    artifacts, requires = locked["artifacts"], locked["requires_dists"]
    assert isinstance(artifacts, list)
    assert isinstance(requires, list)
    return ResolvedPackage(
        name=canonicalize_name(str(locked["project_name"])),
        version=str(locked["version"]),
        hashes=tuple(sorted(f"{one['algorithm']}:{one['hash']}" for one in artifacts)),
        requires=tuple(sorted({plain_name(one) for one in requires})),
    )


def joined_pins(lock: ForeignLock, resolution: Resolution, allow_unpinned: bool) -> tuple[ForeignPin, ...]:
    """The pins of `lock`, with versions and hashes of `resolution` where the file has none.

    Raises InvalidExperiment naming every package that is needed and stands in no line of the file, unless that is
    allowed: such a file does not decide its environment.
    """
    own = {pin.name: pin for pin in lock.pins}
    asked = {*own, *(one.name for one in lock.loose)}
    extra = [package for package in resolution.packages if package.name not in asked]
    if extra and not allow_unpinned:
        _refuse_unlisted(lock, extra, resolution)
    joined = dict(own)
    for package in resolution.packages:
        pin = own.get(package.name, ForeignPin(name=package.name, version=package.version))
        if not pin.hashes:
            joined[package.name] = pin.model_copy(update={"version": package.version, "hashes": package.hashes})
    return tuple(joined[name] for name in sorted(joined))


def _refuse_unlisted(lock: ForeignLock, extra: list[ResolvedPackage], resolution: Resolution) -> None:
    problems = []
    for package in extra:
        needers = [one.name for one in resolution.packages if package.name in one.requires]
        needed = f"needed by {', '.join(needers)}" if needers else "needed"
        problems.append(Problem(package.name, f"is {needed}, and stands in no line of the file"))
    lines = "".join(f"\n  {problem}" for problem in problems[:_SHOWN])
    more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    raise InvalidExperiment(f"{lock.source}: {len(problems)} unpinned{lines}{more}", ALLOW_HINT, problems)
