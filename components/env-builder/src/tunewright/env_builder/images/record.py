"""`environment.json` of an image: what it is, what decided it, and how it came about."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.files import sync_directory, write_json_atomically
from tunewright.env_builder.record import RECORD_FILE, EnvironmentPlace


class BuiltImage(EnvironmentRef):
    """An image that was built or found, and is known to start."""

    image_id: str
    """`sha256:...` of its configuration: what the daemon calls it."""

    target: str
    """The folder of its Dockerfile."""

    names: tuple[str, ...] = ()
    """The tags it was given, the one with the commit first."""

    repo_digests: tuple[str, ...] = ()
    """`name@sha256:...` in each registry it is known to be in."""

    base_name: str = ""
    """The image it starts from."""

    base_digest: str = ""
    """`sha256:...` of that."""

    layers: tuple[str, ...] = ()
    """SHA-256 of each layer's content, unpacked, the base's first: equal ones are stored and sent once."""

    bytes: int = 0
    """Its size, unpacked."""

    dirty: bool = False
    """Whether the tree differed from the commit. Then `dirty.patch` lies beside this file."""

    models: tuple[str, ...] = ()
    """Models inside."""

    built_at: str
    """When, ISO 8601 in UTC."""

    build_seconds: float = 0.0
    """0 where it was found."""

    found_in: str | None = None
    """`daemon` or the registry's reference where it was not built here."""

    @property
    def plain(self) -> EnvironmentRef:
        """What the launcher asked for, without how it came about."""
        return EnvironmentRef(**{name: getattr(self, name) for name in EnvironmentRef.model_fields})


def read_image(place: EnvironmentPlace) -> BuiltImage | None:
    """The record at `place`, None where there is none. Whether the image is still there, only the daemon knows."""
    try:
        built = BuiltImage.model_validate_json((place.directory / RECORD_FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    return built if built.key == place.key else None


def list_images(home: Path) -> list[BuiltImage]:
    """Every recorded image below `home`, the oldest first."""
    directories = sorted((home / "environments").glob("[0-9a-f]*"))
    found = (read_image(EnvironmentPlace(home, path.name)) for path in directories if path.is_dir())
    return sorted((built for built in found if built), key=lambda built: built.built_at)


def write_image(place: EnvironmentPlace, built: BuiltImage, patch: bytes = b"") -> None:
    """Write the record, last."""
    place.directory.mkdir(parents=True, exist_ok=True)
    if patch:
        from tunewright.contracts.files import write_bytes_atomically

        write_bytes_atomically(place.directory / "dirty.patch", patch)
    write_json_atomically(place.directory / RECORD_FILE, built.to_document())
    sync_directory(place.environments)
