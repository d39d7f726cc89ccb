"""Texts that Beaker carries as they are, and the form for those it might not. Pure."""

from __future__ import annotations

import base64

MARK = "base64:"
"""What an encoded text begins with. The start program decodes it."""


def carried(text: str) -> str:
    """`text` where nothing on the way has a reason to change it, else the mark and its UTF-8 in base64.

    Beaker's spec is JSON and YAML: an empty text may count as none, control characters are not YAML, and `$` is what
    templates look for.
    """
    if is_plain(text):
        return text
    return MARK + base64.b64encode(text.encode()).decode()


def is_plain(text: str) -> bool:
    """Whether Beaker gets `text` as it is."""
    return bool(text) and text.isprintable() and "$" not in text and not text.startswith(MARK)
