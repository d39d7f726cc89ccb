"""YAML of plain data in one way: quick, the same bytes each time, texts of several lines as they are written. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_PLAIN_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_NOT_A_KEY = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
_BLOCK = re.compile(r"[!-~][ -~]*\n([ -~]*\n)*")


def yaml_text(document: dict[str, Any]) -> str:
    """The document as YAML, keys in their order. Texts are quoted; any YAML reader gives the same data back.

    Keys have at most 100 characters: YAML's own limit is 1,024, escapes included.
    """
    return "\n".join(_lines(document, "")) + "\n"


def _lines(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _entry(f"{indent}{_key(key)}:", one, indent)
    else:
        for one in value:
            if isinstance(one, dict) and one:
                first, *others = _lines(one, f"{indent}  ")
                yield f"{indent}- {first[len(indent) + 2 :]}"
                yield from others
            else:
                yield from _entry(f"{indent}-", one, indent)


def _entry(start: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, dict | list) and value:
        yield start
        yield from _lines(value, f"{indent}  ")
    elif isinstance(value, str) and _BLOCK.fullmatch(value) and not value.endswith("\n\n"):
        yield f"{start} |"
        yield from (f"{indent}  {line}" if line else "" for line in value[:-1].split("\n"))
    else:
        yield f"{start} {_quoted(value) if isinstance(value, str) else json.dumps(value)}"


def _key(text: str) -> str:
    is_plain = _PLAIN_KEY.fullmatch(text) and text.lower() not in _NOT_A_KEY
    return text if is_plain else _quoted(text)


def _quoted(text: str) -> str:
    """In double quotes, in ASCII: JSON's own escapes come in halves where YAML wants one."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(r"[^ -~]", lambda found: f"\\U{ord(found.group()):08x}", escaped) + '"'
