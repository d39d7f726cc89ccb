"""What decides an environment, and the key that follows: a commit that changes none of it builds nothing."""

from __future__ import annotations

import ast
import os
import platform
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
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
    "plugins/notify-webhook",
    "trainers",
)
"""Everything Pants reads to make it. Prose (`*.md`) below them decides nothing."""

SETTINGS = ("PANTS_CONFIG_FILES", "PANTS_PYTHON_RESOLVES")
"""Variables of the user's that change what Pants makes of the same files."""

_FORMAT_VERSION = 1


def _platform() -> dict[str, str]:
    return {"machine": platform.machine(), "system": platform.system(), "python": VERSION_TEXT}


class EnvironmentInputs(Spec):
    """Everything that decides an environment. Equal inputs, equal key. Without arguments: the trainer's PEX."""

    format_version: int = _FORMAT_VERSION
    target: str = TARGET
    platform: dict[str, str] = Field(default_factory=_platform)
    """Machine, system and Python: a PEX holds compiled packages."""

    committed: dict[str, str]
    """Each deciding file of the commit, with its mode and git's id of its content."""

    changed: dict[str, str] = Field(default_factory=dict)
    """Each deciding file that differs from the commit, with its mode and SHA-256, or `deleted`."""

    settings: dict[str, str] = Field(default_factory=dict)
    """The user's variables, and for an image its base and models: what changes what is made of the same files."""

    paths: tuple[str, ...] = Field(default=DECIDING_PATHS, exclude=True)
    """Where the deciding files are. They decide, not their places."""

    @property
    def key(self) -> str:
        """SHA-256, the name of the environment."""
        return digest_of(self.to_document())


def inputs_of(
    root: Path,
    commit: str,
    with_changes: bool,
    like: EnvironmentInputs | None = None,
    *,
    target: str = TARGET,
    paths: tuple[str, ...] = DECIDING_PATHS,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> EnvironmentInputs:
    """What decides `target` of `commit`, with the tree's own changes on top where `with_changes`.

    With `like`: the same target, places and settings as that.
    """
    if like is not None:
        target, paths, settings = like.target, like.paths, like.settings
    variables = {name: os.environ[name] for name in SETTINGS if os.environ.get(name)}
    return EnvironmentInputs(
        target=target,
        committed={name: one for name, one in committed_files(root, commit, paths).items() if _decides(name)},
        changed=changes(root, paths) if with_changes else {},
        settings={**variables, **settings},
        paths=paths,
    )


def changes(root: Path, paths: Sequence[str] = DECIDING_PATHS) -> dict[str, str]:
    """What the tree at `root` has beyond its commit, of all that decides."""
    return {name: _state(root / name) for name in changed_files(root, paths) if _decides(name)}


def _decides(name: str) -> bool:
    return not name.endswith(".md")


def _state(path: Path) -> str:
    if path.is_symlink():
        return f"link {os.readlink(path)}"
    if not path.is_file():
        return "deleted"
    return f"{'x' if os.access(path, os.X_OK) else '-'} {sha256_of_file(path)}"


def lock_file(root: Path, resolve: str = RESOLVE) -> Path | None:
    """The lockfile of a resolve, None where it is not there."""
    resolves = {**_settings_of(root).get("python", {}).get("resolves", {}), **_resolves_from_environment()}
    lock = root / str(resolves.get(resolve, ""))
    return lock if lock.is_file() else None


def lock_digest(root: Path, resolve: str = RESOLVE) -> str | None:
    """SHA-256 of the lockfile that third-party packages come from, None where it is not there."""
    lock = lock_file(root, resolve)
    return sha256_of_file(lock) if lock else None


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
