"""Label selectors: `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, joined by commas."""

from __future__ import annotations

import re
from collections.abc import Mapping

_SET = re.compile(r"\s*([^\s!=(),]+)\s+(in|notin)\s*\(([^)]*)\)\s*(?:,|$)")
_SIMPLE = re.compile(r"\s*(!?)([^\s!=(),]+)\s*(?:(==|=|!=)\s*([^\s,()]*))?\s*(?:,|$)")


def matches(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether `labels` are what the selector asks for. Raises ValueError for what is no selector."""
    position = 0
    is_so = True
    while position < len(selector):
        if found := _SET.match(selector, position):
            key, word, values = found.groups()
            is_in = labels.get(key) in {value.strip() for value in values.split(",")}
            is_so &= is_in if word == "in" else not is_in
        elif found := _SIMPLE.match(selector, position):
            absent, key, sign, value = found.groups()
            is_so &= _simple(labels, bool(absent), key, sign, value)
        else:
            raise ValueError(f"unable to parse requirement: {selector[position:]!r}")
        position = found.end()
    return is_so


def _simple(labels: Mapping[str, str], is_absent: bool, key: str, sign: str | None, value: str | None) -> bool:
    if is_absent:
        return key not in labels
    if sign is None:
        return key in labels
    return (labels.get(key) == value) is (sign != "!=")
