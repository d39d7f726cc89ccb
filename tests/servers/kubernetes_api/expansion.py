"""What Kubernetes makes of `$(VAR)` in commands, arguments and variables."""

from __future__ import annotations

import re
from collections.abc import Mapping


def expand(text: str, variables: Mapping[str, str]) -> str:
    """`$(NAME)` becomes the variable's value where there is one, `$$` becomes `$`; all else stays."""
    return re.sub(r"\$\$|\$\(([^()]*)\)", lambda found: _one(found, variables), text)


def _one(found: re.Match[str], variables: Mapping[str, str]) -> str:
    if found.group() == "$$":
        return "$"
    return variables.get(found.group(1), found.group())
