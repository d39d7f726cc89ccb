"""From a file to its lock: which format it has is told by its name and its content."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, get_args

from tunewright.contracts.errors import InvalidExperiment, NotFound, UsageError
from tunewright.env_builder.foreign.conda_lock import parse_conda_lock
from tunewright.env_builder.foreign.documents import read_toml, read_yaml
from tunewright.env_builder.foreign.draft import refuse_unknown_names
from tunewright.env_builder.foreign.environment_yml import parse_environment
from tunewright.env_builder.foreign.lock import ForeignLock, SourceKind
from tunewright.env_builder.foreign.poetry_lock import parse_poetry_lock
from tunewright.env_builder.foreign.pylock import parse_pylock
from tunewright.env_builder.foreign.requirements_txt import parse_requirements
from tunewright.env_builder.foreign.target import Selection, Target
from tunewright.env_builder.foreign.uv_lock import parse_uv_lock

KINDS: tuple[SourceKind, ...] = get_args(SourceKind)
_TOML_NAMES = ("uv.lock", "poetry.lock")
_YAML_ENDINGS = (".yml", ".yaml")
_TEXT_ENDINGS = (".txt", ".in", ".lock")
_OTHER_TOOLS = {
    "pyproject.toml": "it says what is wanted, not which versions; give its lock (`uv lock`, `poetry lock`)",
    "Pipfile": "give its lock as a requirements file: `pipenv requirements --hash`",
    "Pipfile.lock": "export it: `pipenv requirements --hash`",
    "pdm.lock": "export it: `pdm export --format requirements`",
    "pixi.lock": "export it: `pixi workspace export conda-environment`",
    "setup.py": "it says what is wanted, not which versions; make a lock with `uv pip compile`",
}


def read_lock(path: Path, selection: Selection, target: Target, kind: SourceKind | None = None) -> ForeignLock:
    """The lock that lies at `path`, of `kind` where that is told.

    Raises NotFound where there is no file, UsageError for one of no known kind or an extra it has not,
    InvalidExperiment with everything that is wrong in it.
    """
    text = _read_text(path)
    source = str(path)
    if not text.strip():
        raise InvalidExperiment(f"{source}: is empty")
    document: dict[str, Any] | None = None
    if kind is None:
        kind, document = detect_kind(path.name, text, source)
    if kind == "requirements.txt":
        refuse_unknown_names(source, selection, (), ())
        return parse_requirements(text, source, target, _read_included)
    if kind == "environment.yml":
        refuse_unknown_names(source, selection, (), ())
        return parse_environment(document or read_yaml(text, source), text, source, target, _read_included)
    if kind == "conda-lock.yml":
        return parse_conda_lock(document or read_yaml(text, source), source, target, selection)
    document = document or read_toml(text, source)
    if kind == "uv.lock":
        return parse_uv_lock(document, source, target, selection)
    if kind == "pylock.toml":
        return parse_pylock(document, source, target, selection)
    return parse_poetry_lock(document, source, target, selection, _pyproject_beside(path))


def detect_kind(name: str, text: str, source: str) -> tuple[SourceKind, dict[str, Any] | None]:
    """The kind of the file `name`, and its content where it had to be read for that.

    Raises UsageError where it is of no known kind, InvalidExperiment where its name says one that it is not.
    """
    if name in _OTHER_TOOLS:
        raise UsageError(f"{source}: cannot be imported", _OTHER_TOOLS[name])
    if name.endswith(_YAML_ENDINGS):
        document = read_yaml(text, source)
        return _yaml_kind(document, source), document
    if name.endswith(".toml") or name in _TOML_NAMES or (name.endswith(".lock") and _is_toml(text)):
        document = read_toml(text, source)
        return _toml_kind(document, source), document
    if name.endswith(_TEXT_ENDINGS):
        return "requirements.txt", None
    raise UsageError(f"{source}: its name tells no format that is known", f"give --format: {', '.join(KINDS)}")


def _is_toml(text: str) -> bool:
    try:
        return bool(tomllib.loads(text))
    except tomllib.TOMLDecodeError:
        return False


def _yaml_kind(document: dict[str, Any], source: str) -> SourceKind:
    if "package" in document and "version" in document:
        return "conda-lock.yml"
    if "dependencies" in document:
        return "environment.yml"
    raise InvalidExperiment(f"{source}: neither an environment.yml (no `dependencies`) nor a conda-lock.yml")


def _toml_kind(document: dict[str, Any], source: str) -> SourceKind:
    metadata = document.get("metadata")
    if "lock-version" in document:
        return "pylock.toml"
    if isinstance(metadata, dict) and ("lock-version" in metadata or "content-hash" in metadata):
        return "poetry.lock"
    if "version" in document:
        return "uv.lock"
    raise InvalidExperiment(f"{source}: neither a uv.lock, a poetry.lock nor a pylock.toml: it has no lock version")


def _read_included(path: str) -> str:
    return _read_text(Path(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidExperiment(f"{path}: cannot be read: {error}") from None


def _pyproject_beside(path: Path) -> dict[str, Any] | None:
    beside = path.with_name("pyproject.toml")
    return read_toml(_read_text(beside), str(beside)) if beside.is_file() else None
