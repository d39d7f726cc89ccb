"""The versions that belong together in the CUDA image, and whether the locks have them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunewright.contracts.preflight import Finding
from tunewright.env_builder.locks.driver import minimum_driver
from tunewright.env_builder.locks.pins import cuda_of
from tunewright.env_builder.locks.project import FOLDER, read_text
from tunewright.env_builder.locks.requirement_files import LockEntry, lock_entries

VERSIONS = "images/trainer-cuda/versions.toml"
"""Where they are written, below the checkout."""

LOCKS = ("train-cuda", "flash-attn")
"""The locks that the image is made of."""


@dataclass(frozen=True)
class CudaVersions:
    """What belongs together in the CUDA image."""

    cuda: str
    """Of the CUDA libraries, such as `13.0`: those that torch is built with."""

    minimum_driver: str
    """The oldest NVIDIA driver of a host that can run it."""

    minimum_compute_capability: str
    """The oldest kind of GPU that it runs on, such as `7.5`."""

    flash_attn_archs: tuple[str, ...]
    """The kinds of GPU that flash-attn is compiled for, such as `80`. Code for 80 also runs on 86 and 89."""

    packages: dict[str, str]
    """Version of each package that must fit the others, by its name in the lock."""


def cuda_versions(root: Path) -> CudaVersions | None:
    """The versions written in the checkout at `root`, None where there are none or they cannot be read."""
    try:
        document: dict[str, Any] = tomllib.loads((root / VERSIONS).read_text())
        cuda = document["cuda"]
        return CudaVersions(
            cuda=cuda["version"],
            minimum_driver=cuda["minimum_driver"],
            minimum_compute_capability=cuda["minimum_compute_capability"],
            flash_attn_archs=tuple(document["flash-attn"]["cuda_archs"]),
            packages=dict(document["packages"]),
        )
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError, TypeError):
        return None


def find_cuda_problems(root: Path) -> list[Finding]:
    """Where the CUDA image's versions and its locks differ: nowhere where there is no CUDA image. Reads only."""
    if not (root / VERSIONS).parent.is_dir():
        return []
    versions = cuda_versions(root)
    if versions is None:
        message = "cannot be read: it must have [cuda], [packages] and [flash-attn] cuda_archs"
        return [Finding(code="cuda-versions-unreadable", path=VERSIONS, message=message)]
    locks = [root / FOLDER / f"{name}.lock" for name in LOCKS]
    entries = [entry for lock in locks if lock.is_file() for entry in lock_entries(read_text(lock))]
    return find_version_problems(versions, entries)


def find_version_problems(versions: CudaVersions, entries: list[LockEntry]) -> list[Finding]:
    """Where `versions` differ from what the image's locks have (`entries`), and from what its CUDA asks of a host."""
    locked = {entry.name: entry.version for entry in entries}
    said = [
        (f"packages.{name}", version, locked.get(name), "its locks have") for name, version in versions.packages.items()
    ]
    said.append(("cuda.version", versions.cuda, cuda_of(entries), "the torch of its lock is built with"))
    said.append(("cuda.minimum_driver", versions.minimum_driver, minimum_driver(versions.cuda), "this CUDA needs"))
    hint = f"write the locks' versions into {VERSIONS}, or lock anew with 3rdparty/python/refresh-locks"
    return [
        Finding(
            code="cuda-versions-disagree",
            path=f"{VERSIONS}: {field}",
            message=f"is {version}; {verb} {actual or 'none'}",
            hint=hint,
        )
        for field, version, actual, verb in said
        if version != actual
    ]
