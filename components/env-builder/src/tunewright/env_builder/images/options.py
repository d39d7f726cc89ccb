"""How an image is built and named, as the command line or the environment says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ImageOptions:
    """Nothing here but `base_image` and `models` changes what is in the image."""

    prefix: str = ""
    """The image's name before the branch. By default `tunewright/<target>`."""

    registry: str = ""
    """`host[:port][/path]`: where images are looked for, whose layers are taken, and where `push` pushes."""

    branch: str = ""
    """The branch in the image's name, in place of the one that is checked out."""

    base_image: str = ""
    """In place of images/base: a reference with a digest, or an image that is here."""

    cache_from: tuple[str, ...] = ()
    """Images in a registry whose layers are taken where they are the same."""

    tmpdir: Path | None = None
    """Where the build's temporary files go."""

    models: tuple[str, ...] = ()
    """What goes into an offline image: `ID@COMMIT`, or `NAME=DIRECTORY`."""

    @classmethod
    def from_environment(cls) -> ImageOptions:
        """What a machine's owner sets once. An empty variable is none."""
        return cls(
            registry=os.environ.get("TUNEWRIGHT_REGISTRY", ""),
            base_image=os.environ.get("TUNEWRIGHT_BASE_IMAGE", ""),
            cache_from=tuple(os.environ.get("TUNEWRIGHT_CACHE_FROM", "").split()),
        )
