"""From what a user calls an image to its record."""

from __future__ import annotations

from pathlib import Path

from tunewright.contracts.errors import NotFound, UsageError
from tunewright.env_builder.images.record import BuiltImage, list_images
from tunewright.env_builder.record import list_built

_SHORTEST_ID = 7


def find_image(home: Path, reference: str) -> BuiltImage | None:
    """The recorded image that `reference` means: a key or id, the beginning of exactly one, or a name. None for a PEX.

    Raises NotFound for none, UsageError for a beginning that several have.
    """
    images = list_images(home)
    named = [one for one in images if reference in (*one.names, *one.repo_digests, one.reference, one.image_id)]
    begun = [one for one in images if _begins(one, reference)]
    found = {one.key: one for one in (named or begun)}
    if len(found) > 1:
        raise UsageError(f"`{reference}` means {len(found)} images: {', '.join(key[:16] for key in sorted(found))}")
    if found:
        return next(iter(found.values()))
    if any(pex.key.startswith(reference) for pex in list_built(home)) or Path(reference).exists():
        return None
    raise NotFound(f"`{reference}`: no such environment in {home / 'environments'}", "see `env-builder list`")


def _begins(image: BuiltImage, reference: str) -> bool:
    text = reference.removeprefix("sha256:")
    if len(text) < _SHORTEST_ID:
        return False
    return image.key.startswith(text) or image.image_id.removeprefix("sha256:").startswith(text)
