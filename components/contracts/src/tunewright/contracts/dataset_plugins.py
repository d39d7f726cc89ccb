"""What a plugin can add to the dataset-cacher: row formats and chat templates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tunewright.contracts.registry import Registry


@dataclass(frozen=True)
class DatasetFormat:
    """How a row of a source becomes a conversation, or a preference: two of them."""

    name: str
    """What users write in `dataset.mix.format`."""

    summary: str
    """One line for people: what a row looks like."""

    entry: str
    """`package.module:function`, imported when used: `(row: Mapping) -> list[{"role", "content", ...}]`.

    It raises ValueError with one sentence for a row it cannot read. With two conversations a row it gives
    `(chosen, rejected)`, each such a list, from its first message on: what both begin with is the prompt, and the
    messages behind it are the answers.
    """

    version: int
    """Part of the cache's digest: raise it whenever the same row would give another conversation."""

    api: int
    """The contracts' `API_VERSION` the plugin was written for."""

    conversations_per_row: int = 1
    """Conversations that a row gives: 1, or 2 for a preference. A mix has formats of one number only."""


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template: Jinja source as transformers' `apply_chat_template` takes it."""

    name: str
    """What users write in `model.chat_template`."""

    source: str
    """The Jinja text. It is part of the cache's digest and is saved with the model."""

    api: int
    """The contracts' `API_VERSION` the plugin was written for."""

    summary: str = ""
    """One line for people."""


class DatasetFormatRegistry(Registry[DatasetFormat]):
    """Passed into `tunewright_register_dataset_formats`."""

    noun = "dataset format"


class ChatTemplateRegistry(Registry[ChatTemplate]):
    """Passed into `tunewright_register_chat_templates`."""

    noun = "chat template"


Row = Mapping[str, Any]
