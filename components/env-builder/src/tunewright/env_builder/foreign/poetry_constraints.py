"""Poetry's way to write versions (`^3.8 || ~2.7`) as pip writes them."""

from __future__ import annotations

import re

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

_SIGNED = re.compile(r"(\^|~(?!=))\s*([^\s,]+)")
_PLAIN = re.compile(r"[0-9][^\s,]*")


def to_specifiers(constraint: str) -> list[SpecifierSet] | None:
    """The alternatives that `constraint` allows, None where it cannot be read."""
    try:
        return [_to_specifier(one) for one in re.split(r"\s*\|\|?\s*", constraint.strip())]
    except (InvalidSpecifier, InvalidVersion):
        return None


def allows(constraint: str, version: str) -> bool:
    """Whether `constraint` has `version` in it. What cannot be read is not held against it."""
    alternatives = to_specifiers(constraint)
    return alternatives is None or any(one.contains(version, prereleases=True) for one in alternatives)


def _to_specifier(text: str) -> SpecifierSet:
    if text in ("", "*"):
        return SpecifierSet()
    signed = _SIGNED.sub(lambda match: _range(match[1], match[2]), text)
    parts = [part.strip() for part in re.split(r",|\s+(?=[<>=!~^])", signed) if part.strip()]
    return SpecifierSet(",".join(f"=={part}" if _PLAIN.fullmatch(part) else part for part in parts))


def _range(sign: str, text: str) -> str:
    """`^1.2.3` is `>=1.2.3,<2`; `~1.2.3` is `>=1.2.3,<1.3`."""
    release = Version(text).release
    if sign == "~":
        kept = 1 if len(release) == 1 else 2
    else:
        kept = next((index + 1 for index, number in enumerate(release) if number), len(release))
    upper = ".".join(map(str, (*release[: kept - 1], release[kept - 1] + 1)))
    return f">={text},<{upper}"
