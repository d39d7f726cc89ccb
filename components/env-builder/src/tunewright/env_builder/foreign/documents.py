"""TOML and YAML text as typed documents: whatever does not fit its format is one problem by its path in the file."""

from __future__ import annotations

import tomllib
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from tunewright.contracts.errors import InvalidExperiment, Problem


def _with_dashes(name: str) -> str:
    return name.replace("_", "-")


class Document(BaseModel):
    """A part of another tool's file: what we do not read may be there. Keys have dashes where names have not."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True, alias_generator=_with_dashes)


Some = TypeVar("Some", bound=BaseModel)


def read_toml(text: str, source: str) -> dict[str, Any]:
    """`text` as TOML. Raises InvalidExperiment where it is none."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidExperiment(f"{source}: is not TOML: {error}") from None


def read_yaml(text: str, source: str) -> dict[str, Any]:
    """`text` as YAML, a mapping. Raises InvalidExperiment where it is none."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidExperiment(f"{source}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise InvalidExperiment(f"{source}: must be a YAML mapping, is {type(document).__name__}")
    return document


def yaml_lines(text: str, *path: str) -> list[int]:
    """The line of each item of the list at `path`, a mapping's key each; a mapping in a list is looked into."""
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for key in path:
        node = _below(node, key)
    return [item.start_mark.line + 1 for item in node.value] if isinstance(node, yaml.SequenceNode) else []


def _below(node: Any, key: str) -> Any:
    mappings = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for mapping in mappings:
        if isinstance(mapping, yaml.MappingNode):
            for name, value in mapping.value:
                if name.value == key:
                    return value
    return None


def fit(model: type[Some], document: dict[str, Any], source: str) -> Some:
    """`document` as a `model`. Raises InvalidExperiment with every problem."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = [
            Problem(".".join(map(str, one["loc"])), one["msg"][0].lower() + one["msg"][1:]) for one in error.errors()
        ]
        raise InvalidExperiment.from_problems(source, problems) from None


def refuse_newer(source: str, version: str, newest: str) -> None:
    """Raise InvalidExperiment where the file's format is newer than we know."""
    try:
        is_newer = _numbers(version) > _numbers(newest)
    except ValueError:
        raise InvalidExperiment(f"{source}: lock version `{version}` is none that is known; {newest} is") from None
    if is_newer:
        raise InvalidExperiment(
            f"{source}: lock version {version} is newer than is known here (up to {newest})",
            "export it to a hashed requirements.txt with its own tool, and import that",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
