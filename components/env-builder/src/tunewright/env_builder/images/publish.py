"""Pushing an image that was built here, and remembering where it is."""

from __future__ import annotations

from pathlib import Path

from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.errors import IntegrityError, NotFound, UsageError
from tunewright.env_builder.images import registry
from tunewright.env_builder.images.daemon import Daemon, open_daemon
from tunewright.env_builder.images.names import DETACHED
from tunewright.env_builder.images.record import BuiltImage, read_image, write_image
from tunewright.env_builder.progress import say
from tunewright.env_builder.record import EnvironmentPlace


def push_built(home: str, key: str, to: str) -> EnvironmentRef:
    """Push the image with this key under its names; its reference is the registry's digest from now on.

    The name that moves, `latest`, goes last. Raises UsageError without a registry, Unavailable in the registry's words.
    """
    place = EnvironmentPlace(Path(home), key)
    built = read_image(place)
    if built is None:
        raise NotFound(f"{place.directory}: no image was recorded there", "see `env-builder list`")
    repository = _repository(built, to)
    with open_daemon() as daemon:
        image = daemon.find(built.image_id)
        if image is None:
            raise NotFound(f"the image {built.image_id} is not here any more", "build it again")
        digest = ""
        references = [f"{repository}:{name}" for name in (*_tags_of(built), "latest")]
        for reference in references:
            daemon.tag(built.image_id, reference)
            digest = _same(registry.push(daemon, reference), digest)
        named = built.model_copy(update={"names": tuple(dict.fromkeys((*built.names, *references)))})
        pushed = _with_digest(daemon, named, digest)
    write_image(place, pushed)
    say(f"pushed {digest}")
    return pushed.plain


def _tags_of(built: BuiltImage) -> list[str]:
    tags = dict.fromkeys(name.rpartition(":")[2] for name in built.names)
    return [tag for tag in tags if tag != "latest"]


def _repository(built: BuiltImage, to: str) -> str:
    """The image's repository in the registry: its own where it has one there already."""
    own = built.names[0].rpartition(":")[0]
    if own.endswith(f"-{DETACHED}"):
        hint = (
            "build it with --branch NAME: what is pushed is for others, and a name without a branch tells them nothing"
        )
        raise UsageError(f"{own} was built with no branch checked out", hint)
    host = own.partition("/")[0]
    is_elsewhere = "." in host or ":" in host or host == "localhost"
    if not to and not is_elsewhere:
        raise UsageError("no registry: give --registry HOST[:PORT][/PATH], or set TUNEWRIGHT_REGISTRY")
    if not to or own.startswith(f"{to.rstrip('/')}/"):
        return own
    return f"{to.rstrip('/')}/{own.partition('/')[2] if is_elsewhere else own}"


def _same(digest: str, before: str) -> str:
    if before and digest != before:
        raise IntegrityError(f"the registry gives one image two digests: {before} and {digest}")
    return digest


def _with_digest(daemon: Daemon, built: BuiltImage, digest: str) -> BuiltImage:
    image = daemon.find(built.image_id)
    digests = image.repo_digests if image else (digest,)
    return built.model_copy(update={"repo_digests": tuple(dict.fromkeys((digest, *digests))), "reference": digest})
