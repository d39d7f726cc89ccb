"""Which model is meant: one of the hub at a commit, or a directory that gets a name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tunewright.contracts.errors import UsageError

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HEXADECIMAL = re.compile(r"[0-9a-f]+")
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
_ID = re.compile(rf"{_PART}(?:/{_PART})?")
_LONGEST_ID = 96
_COMMIT_HINT = (
    "a branch or a tag can move, a commit cannot; it is on the model's page under `Files and versions` > `History`, "
    "or: git ls-remote https://huggingface.co/{model_id} main"
)


@dataclass(frozen=True)
class ModelPin:
    """A model of the hub at one commit."""

    model_id: str
    """`organisation/name`, or `name` alone for the hub's oldest models."""

    commit: str
    """40 hexadecimal digits."""

    def __str__(self) -> str:
        return f"{self.model_id}@{self.commit}"


@dataclass(frozen=True)
class LocalModel:
    """A directory as transformers' `save_pretrained` writes it, such as a finished run's `model/`, under a name."""

    model_id: str
    """What `from_pretrained` will call it: of the form of a hub id."""

    directory: Path
    """Where it is."""

    def __str__(self) -> str:
        return f"{self.model_id}={self.directory}"


def parse_model(text: str, option: str = "--model") -> ModelPin | LocalModel:
    """What `--model` was given: `ID@COMMIT`, or `NAME=DIRECTORY`. Raises UsageError."""
    name, equals, directory = text.partition("=")
    if not equals:
        return parse_model_pin(text, option)
    if not directory:
        raise UsageError(f"`{option} {text}`: names no directory; must be `NAME=DIRECTORY`")
    return LocalModel(check_model_id(name, option), Path(directory))


def parse_model_pin(text: str, option: str = "--model") -> ModelPin:
    """The model that `ID@COMMIT` means. Raises UsageError for everything else, a branch name included."""
    model_id, at, commit = text.partition("@")
    if not at:
        hint = _COMMIT_HINT.format(model_id=model_id)
        raise UsageError(f"`{option} {text}`: must be `ID@COMMIT`, got no commit", hint)
    return ModelPin(check_model_id(model_id, option), check_commit(commit, model_id, option))


def check_model_id(model_id: str, option: str = "ID") -> str:
    """`model_id`, where it has the form of a hub id. Raises UsageError."""
    if _ID.fullmatch(model_id) and not re.search(r"--|\.\.|\.git$", model_id) and len(model_id) <= _LONGEST_ID:
        return model_id
    raise UsageError(
        f"`{option}`: `{model_id}` is no id of a model",
        "an id is `organisation/name`: letters, digits, `-`, `_` and `.`, no `--` and no `..`, at most 96 characters",
    )


def check_commit(revision: str, model_id: str, option: str = "--revision") -> str:
    """`revision` in lower case, where it is a full commit id. Raises UsageError, with how to find it."""
    commit = revision.lower()
    if _COMMIT.fullmatch(commit):
        return commit
    is_shortened = _HEXADECIMAL.fullmatch(commit) is not None
    got = f"got {len(commit)} of them" if is_shortened else "got a branch, a tag, or something else"
    shown = f"{got}: `{revision}`" if revision else "got none"
    message = f"`{option}`: must be a commit, 40 hexadecimal digits, {shown}"
    raise UsageError(message, _COMMIT_HINT.format(model_id=model_id))
