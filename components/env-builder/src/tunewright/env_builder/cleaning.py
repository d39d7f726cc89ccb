"""What can go: environments by age and size, and what killed builds left. Never what a run that goes on uses."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import Spec
from tunewright.env_builder.building import remove
from tunewright.env_builder.images.record import BuiltImage, list_images, read_image
from tunewright.env_builder.record import BuiltEnvironment, EnvironmentPlace, list_built

_SECONDS_PER_DAY = 86400
_STALE_SECONDS = 3600
"""A temporary directory that nobody has touched for so long is no build's any more."""


class Candidate(Spec):
    """One thing below `$TUNEWRIGHT_HOME/environments`."""

    kind: str
    """`pex`, `image` or `leftover`."""

    name: str
    """Its key, or the file's name."""

    bytes: int
    """What it takes. An image's layers that others share are counted whole."""

    age_days: float
    """Since it was built or last written."""

    kept_because: str = ""
    """Empty where it can go."""

    image_id: str = ""
    """An image's own."""


def find_candidates(home: Path, older_than_days: float, keep: int) -> list[Candidate]:
    """Everything that is there, the largest first; what stays says why."""
    used = _used_keys(home)
    ranks = _ranks([*list_built(home), *list_images(home)])
    candidates = [*_environments(home, used, ranks, older_than_days, keep), *_leftovers(home)]
    return sorted(candidates, key=lambda one: (-one.bytes, one.name))


def remove_candidate(home: Path, candidate: Candidate) -> None:
    """Take away what `find_candidates` found. An image's own layers go with its names; the daemon keeps shared ones.

    An image to which somebody gave a name of theirs keeps that name, and so its layers.
    """
    place = EnvironmentPlace(home, candidate.name)
    if candidate.kind == "image":
        built = read_image(place)
        _remove_image(candidate.image_id, built.names if built else ())
    if candidate.kind == "leftover":
        path = place.environments / candidate.name
        remove(path)
        path.unlink(missing_ok=True)
        return
    # The record first: what is half removed is then no environment.
    (place.directory / "environment.json").unlink(missing_ok=True)
    remove(place.directory)
    place.log.unlink(missing_ok=True)
    place.lock.unlink(missing_ok=True)


def _remove_image(image_id: str, names: Sequence[str]) -> None:
    from docker.errors import APIError

    from tunewright.contracts.errors import Unavailable
    from tunewright.env_builder.images.daemon import open_daemon

    with open_daemon() as daemon:
        image = daemon.find(image_id)
        if image is None:
            return
        for reference in [tag for tag in image.tags if tag in names] if image.tags else [image_id]:
            try:
                daemon.client.api.remove_image(reference)
            except APIError as error:  # a container that is there still uses it
                raise Unavailable(f"Docker does not remove {reference}: {error.explanation or error}") from None


def _environments(
    home: Path, used: Mapping[str, str], ranks: Mapping[str, int], older_than_days: float, keep: int
) -> Iterator[Candidate]:
    every: list[BuiltEnvironment | BuiltImage] = [*list_built(home), *list_images(home)]
    for built in every:
        is_image = isinstance(built, BuiltImage)
        size_bytes = built.bytes if isinstance(built, BuiltImage) else sum(one.bytes for one in built.files)
        age_days = _days_since(built.built_at)
        why = f"run {used[built.key]} uses it" if built.key in used else ""
        if not why and ranks[built.key] < keep:
            why = f"one of the {keep} newest of its kind"
        if not why and age_days < older_than_days:
            why = f"younger than {older_than_days:g} days"
        yield Candidate(
            kind="image" if is_image else "pex",
            name=built.key,
            bytes=size_bytes,
            age_days=round(age_days, 2),
            kept_because=why,
            image_id=built.image_id if isinstance(built, BuiltImage) else "",
        )


def _ranks(built: list[BuiltEnvironment | BuiltImage]) -> dict[str, int]:
    """Of each environment: how many newer ones of its kind there are."""
    seen: dict[str, int] = {}
    ranks = {}
    for one in sorted(built, key=lambda one: one.built_at, reverse=True):
        kind = one.target if isinstance(one, BuiltImage) else "pex"
        ranks[one.key] = seen.get(kind, 0)
        seen[kind] = ranks[one.key] + 1
    return ranks


def _used_keys(home: Path) -> dict[str, str]:
    """The environments of runs that have no record of their end, each with one run's name."""
    used = {}
    for path in sorted((home / "runs").glob("*/environment.json")):
        run = RunDir(path.parent)
        try:
            key = json.loads(path.read_bytes())["key"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if not run.provenance.exists():
            used[key] = run.name
    return used


def _leftovers(home: Path) -> Iterator[Candidate]:
    """Temporary directories of builds that were killed."""
    for path in sorted((home / "environments").glob(".*.tmp")):
        age_seconds = time.time() - path.stat().st_mtime
        why = "" if age_seconds > _STALE_SECONDS else "a build may be using it"
        size_bytes = sum(one.stat().st_size for one in path.rglob("*") if one.is_file() and not one.is_symlink())
        days = round(age_seconds / _SECONDS_PER_DAY, 2)
        yield Candidate(kind="leftover", name=path.name, bytes=size_bytes, age_days=days, kept_because=why)


def _days_since(moment: str) -> float:
    return max(0.0, (time.time() - datetime.fromisoformat(moment).timestamp()) / _SECONDS_PER_DAY)
