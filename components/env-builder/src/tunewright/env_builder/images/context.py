"""What an image is put together from: packaged programs, files of the repository, the images below it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.errors import EnvironmentBuildFailed
from tunewright.env_builder.images.targets import ImageTarget, is_base

MODELS_FOLDER = "images/offline/models"
"""Where an offline image's Dockerfile takes its models from."""

_KEPT_ONCE_BYTES = 512 * 1024
"""A file this big Pants has once on disk, linked into each process's directory: so it can be written by none."""


@dataclass(frozen=True)
class BaseImage:
    """The image a build starts from."""

    argument: str
    """The build argument that names it."""

    reference: str
    """As `FROM` gets it."""

    digest: str
    """`sha256:...`."""


def pants_targets(target: ImageTarget, given: Mapping[str, BaseImage]) -> list[str]:
    """What Pants has to make: the programs, and an operating system where none was given."""
    bases = [address for argument, address in target.bases.items() if is_base(address) and argument not in given]
    return [*target.pexes, *bases]


def assemble(target: ImageTarget, root: Path, distdir: Path, models: Path | None) -> Path:
    """Make `distdir`, where Pants put the programs, the build's context. Gives the Dockerfile.

    Files are linked in, not copied, where that can be. Raises EnvironmentBuildFailed for what is not there.
    """
    for path in target.pexes.values():
        if not (distdir / path).exists():
            raise EnvironmentBuildFailed(f"{target.folder}/Dockerfile wants {path}, and Pants made none")
        _protect_as_pants_does(distdir / path)
    for name in target.files:
        source = models if models is not None and name == MODELS_FOLDER else root / name
        if not source.exists():
            raise EnvironmentBuildFailed(f"{target.folder}/Dockerfile copies {name}, which is not there")
        copy_linked(source, distdir / name)
    dockerfile = distdir / "Dockerfile"
    dockerfile.write_text(target.dockerfile, encoding="utf-8")
    return dockerfile


def _protect_as_pants_does(program: Path) -> None:
    """Give big files the mode they have where Pants itself builds an image. Modes are a part of BuildKit's cache key:
    with others nothing is found of what `./pants package images::` has built, and all is unpacked and compiled again.
    """
    for path in (program, *program.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size >= _KEPT_ONCE_BYTES:
            path.chmod(0o555)


def copy_linked(source: Path, destination: Path) -> None:
    """Copy a file or directory; on one disk as hard links: models are large."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, destination, symlinks=True, copy_function=_link, dirs_exist_ok=True)
    else:
        _link(str(source), str(destination))


def _link(source: str, destination: str) -> None:
    try:
        os.link(source, destination, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, destination, follow_symlinks=False)


def made_base(distdir: Path, address: str) -> str:
    """The name that Pants gave the operating system it made."""
    folder, _, name = address.partition(":")
    found: Sequence[Path] = list(distdir.glob(f"{folder.replace('/', '.')}/{name}.docker-info.json"))
    if not found:
        raise EnvironmentBuildFailed(f"Pants made no image {address}")
    document = json.loads(found[0].read_bytes())
    return str(document["registries"][0]["tags"][0]["name"])
