"""A row of a source to its conversations: columns renamed, read by its format, its system prompt put before."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, chain, repeat
from operator import contains, itemgetter, methodcaller
from typing import Any, NamedTuple

from tunewright.contracts.dataset_plugins import Row
from tunewright.contracts.errors import BrokenPlugin
from tunewright.contracts.plugins import load_entry
from tunewright.dataset_cacher.chat.conversations import TOOLS_COLUMN, Conversation, Tools, make_conversation, tools_of
from tunewright.dataset_cacher.chat.formats import MESSAGES_COLUMN, read_messages
from tunewright.dataset_cacher.chat.pairs import make_pair
from tunewright.dataset_cacher.inputs import SourceInputs
from tunewright.dataset_cacher.reading.scans import BadRow

RowReader = Callable[[Row | BadRow], tuple[Conversation, ...]]
"""Gives as many conversations as the format says: of a preference the chosen and the rejected one."""


def make_row_reader(source: SourceInputs) -> RowReader:
    """What reads the rows of `source`.

    It raises ValueError with one sentence for a row that is none or that the format cannot read, BrokenPlugin where
    the format fails.
    """
    read_format: Callable[[Row], Any] = load_entry(source.format.entry, source.format_owner)
    what = f"dataset format `{source.format.name}` of {source.format_owner} failed"
    columns, prompt = source.spec.columns, source.spec.system_prompt
    is_pair = source.format.conversations_per_row > 1

    def read(row: Row | BadRow) -> tuple[Conversation, ...]:
        if isinstance(row, BadRow):
            raise row
        if columns:
            row = _renamed(row, columns)
        try:
            given = read_format(row)
        except ValueError:
            raise
        except Exception as error:
            raise BrokenPlugin(f"{what}: {type(error).__name__}: {error}") from error
        tools = tools_of(row)
        conversations = _pair_of(given, tools, what) if is_pair else (make_conversation(given, tools),)
        return conversations if prompt is None else tuple(with_system_prompt(one, prompt) for one in conversations)

    return read


class PlainRows(NamedTuple):
    """Rows of roles and contents and nothing else: the messages of all of them, one row behind the other."""

    roles: tuple[str, ...]
    contents: list[str]
    ends: list[int]
    """Where the messages of each row end."""


QuickReader = Callable[[Sequence[Row | BadRow]], PlainRows | None]
"""Gives what rows say, or None where one of them needs more than a look."""

_OF_ROLE, _OF_CONTENT, _OF_TOOLS = itemgetter("role"), itemgetter("content"), methodcaller("get", TOOLS_COLUMN)
_OF_MESSAGES = itemgetter(MESSAGES_COLUMN)
_PLAIN_SIZE = 2


def make_quick_reader(source: SourceInputs) -> QuickReader | None:
    """Reads the rows of `source` that nearly all are: one conversation, of roles and contents and nothing else.

    What it gives is what the row reader would; what that refuses, or reads in another way, it leaves to it.
    """
    if source.format.conversations_per_row > 1:
        return None
    read_format: Callable[[Row], Any] = load_entry(source.format.entry, source.format_owner)
    if read_format is read_messages:  # a list, as all must be that are read here, it gives as it is
        read_format = _OF_MESSAGES
    columns, prompt = source.spec.columns, source.spec.system_prompt

    def read(rows: Sequence[Any]) -> PlainRows | None:
        try:
            if columns:
                rows = [_renamed(row, columns) for row in rows]
            given = list(map(read_format, rows))
            if prompt is not None:
                given = [_with_plain_prompt(messages, prompt) for messages in given]
            has_tools = any(map(contains, rows, repeat(TOOLS_COLUMN))) and any(map(_OF_TOOLS, rows))
            return None if has_tools else _plain_rows(given)
        except Exception:  # whatever is wrong with them, the row reader finds it too, and has the words
            return None

    return read


def _plain_rows(given: list[Any]) -> PlainRows | None:
    """The messages of some rows as columns, where all are plain: looked at together, with no step for each message."""
    if set(map(type, given)) != {list} or not all(given):
        return None
    messages = list(chain.from_iterable(given))
    if set(map(type, messages)) != {dict} or set(map(len, messages)) != {_PLAIN_SIZE}:
        return None
    roles, contents = tuple(map(_OF_ROLE, messages)), list(map(_OF_CONTENT, messages))
    if set(map(type, chain(roles, contents))) != {str}:
        return None
    return PlainRows(roles, contents, list(accumulate(map(len, given))))


def _with_plain_prompt(messages: list[Any], prompt: str) -> list[Any]:
    if any(message["role"] == "system" for message in messages):
        return messages
    return [{"role": "system", "content": prompt}, *messages]


def _pair_of(given: Any, tools: Tools | None, what: str) -> tuple[Conversation, ...]:
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
        raise BrokenPlugin(f"{what}: it must give two lists of messages, chosen and rejected, for each row")
    chosen, rejected = given
    return make_pair(chosen, rejected, tools)


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
