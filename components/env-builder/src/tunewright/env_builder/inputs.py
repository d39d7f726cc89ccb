"""What decides the trainer's PEX, and the key that follows: a commit that changes none of it builds nothing."""

from __future__ import annotations

import ast
import os
import platform
import tomllib
from pathlib import Path
from typing import Any

from pydantic import Field

from tunewright.contracts.files import sha256_of_file
from tunewright.contracts.spec import Spec, digest_of
from tunewright.env_builder.git import changed_files, committed_files
from tunewright.env_builder.interpreter import VERSION_TEXT

TARGET = "components/trainer:trainer"
"""The Pants target of the trainer's PEX."""

OUTPUT_NAME = "tunewright-trainer.pex"
"""Its `output_path`."""

RESOLVE = "train-cpu"
"""The resolve its third-party packages come from."""

DECIDING_PATHS = (
    "pants.toml",
    "pants",
    ".pants.bootstrap",
    "BUILD",
    "build-support",
    "3rdparty",
    "components/contracts",
    "components/trainer",
    "trainers",
)
"""Everything Pants reads to make it. Prose (`*.md`) below them decides nothing."""

SETTINGS = ("PANTS_CONFIG_FILES", "PANTS_PYTHON_RESOLVES")
"""Variables of the user's that change what Pants makes of the same files."""

_FORMAT_VERSION = 1


def _platform() -> dict[str, str]:
    return {"machine": platform.machine(), "system": platform.system(), "python": VERSION_TEXT}


class PexInputs(Spec):
    """Everything that decides the trainer's PEX. Equal inputs, equal key."""

    format_version: int = _FORMAT_VERSION
    target: str = TARGET
    platform: dict[str, str] = Field(default_factory=_platform)
    """Machine, system and Python: a PEX holds compiled packages."""

    committed: dict[str, str]
    """Each deciding file of the commit, with its mode and git's id of its content."""

    changed: dict[str, str] = Field(default_factory=dict)
    """Each deciding file that differs from the commit, with its mode and SHA-256, or `deleted`."""

    settings: dict[str, str] = Field(default_factory=dict)
    """The user's variables that change what is made."""

    @property
    def key(self) -> str:
        """SHA-256, the name of the environment."""
        return digest_of(self.to_document())


def inputs_of(root: Path, commit: str, with_changes: bool) -> PexInputs:
    """What decides the PEX of `commit`, with the tree's own changes on top where `with_changes`."""
    return PexInputs(
        committed={name: one for name, one in committed_files(root, commit, DECIDING_PATHS).items() if _decides(name)},
        changed=changes(root) if with_changes else {},
        settings={name: os.environ[name] for name in SETTINGS if os.environ.get(name)},
    )


def changes(root: Path) -> dict[str, str]:
    """What the tree at `root` has beyond its commit, of all that decides the PEX."""
    return {name: _state(root / name) for name in changed_files(root, DECIDING_PATHS) if _decides(name)}


def _decides(name: str) -> bool:
    return not name.endswith(".md")


def _state(path: Path) -> str:
    if path.is_symlink():
        return f"link {os.readlink(path)}"
    if not path.is_file():
        return "deleted"
    return f"{'x' if os.access(path, os.X_OK) else '-'} {sha256_of_file(path)}"


def lock_digest(root: Path) -> str | None:
    """SHA-256 of the lockfile that the trainer's third-party packages come from, None where it is not there."""
    resolves = {**_settings_of(root).get("python", {}).get("resolves", {}), **_resolves_from_environment()}
    lock = root / str(resolves.get(RESOLVE, ""))
    return sha256_of_file(lock) if lock.is_file() else None


def pants_version(root: Path) -> str | None:
    """The version of Pants that `pants.toml` asks for."""
    version = _settings_of(root).get("GLOBAL", {}).get("pants_version")
    return str(version) if version else None


def _settings_of(root: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((root / "pants.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError):
        return {}


def _resolves_from_environment() -> dict[str, str]:
    """`PANTS_PYTHON_RESOLVES`, as Pants reads it: a dictionary, with `+` before it to add to the file's."""
    try:
        value = ast.literal_eval(os.environ.get("PANTS_PYTHON_RESOLVES", "{}").lstrip("+"))
    except (SyntaxError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
