"""A row of a source to its conversation: columns renamed, read by the source's format, its system prompt put before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from tunewright.contracts.dataset_plugins import Row
from tunewright.contracts.errors import BrokenPlugin
from tunewright.contracts.plugins import load_entry
from tunewright.dataset_cacher.chat.conversations import Conversation, make_conversation, tools_of
from tunewright.dataset_cacher.inputs import SourceInputs
from tunewright.dataset_cacher.reading.scans import BadRow

RowReader = Callable[[Row | BadRow], Conversation]


def make_row_reader(source: SourceInputs) -> RowReader:
    """What reads the rows of `source`.

    It raises ValueError with one sentence for a row that is none or that the format cannot read, BrokenPlugin where
    the format fails.
    """
    read_format: Callable[[Row], Any] = load_entry(source.format.entry, source.format_owner)
    what = f"dataset format `{source.format.name}` of {source.format_owner} failed"
    columns, prompt = source.spec.columns, source.spec.system_prompt

    def read(row: Row | BadRow) -> Conversation:
        if isinstance(row, BadRow):
            raise row
        if columns:
            row = _renamed(row, columns)
        try:
            messages = read_format(row)
        except ValueError:
            raise
        except Exception as error:
            raise BrokenPlugin(f"{what}: {type(error).__name__}: {error}") from error
        conversation = make_conversation(messages, tools_of(row))
        return conversation if prompt is None else with_system_prompt(conversation, prompt)

    return read


def _renamed(row: Row, columns: Mapping[str, str]) -> Row:
    """`row` with the columns under the names the format reads, and no longer under their own."""
    taken = set(columns.values())
    missing = [name for name in taken if name not in row]
    if missing:
        raise ValueError(f"has no `{min(missing)}`; it has {', '.join(f'`{name}`' for name in row) or 'nothing'}")
    kept = {name: value for name, value in row.items() if name not in taken}
    return {**kept, **{name: row[column] for name, column in columns.items()}}


def with_system_prompt(conversation: Conversation, prompt: str) -> Conversation:
    """`conversation`, with `prompt` before it where it has no system message."""
    if conversation.indexes_of("system"):
        return conversation
    return dataclasses.replace(
        conversation,
        messages=({"role": "system", "content": prompt}, *conversation.messages),
        untrained=frozenset(index + 1 for index in conversation.untrained),
    )
