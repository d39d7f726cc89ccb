"""What an image is called: pure text. `<prefix>-<branch>:<commit>`, and by its key."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from tunewright.contracts.environments import CodeOrigin

DETACHED = "detached"
"""Stands for the branch where none is checked out."""

_BRANCH_CHARACTERS = 60
_DIGEST_REFERENCE = re.compile(r"^(?:\S+@)?sha256:[0-9a-f]{64}$")


@dataclass(frozen=True)
class ImageName:
    """Where an image is kept, without a tag: `registry/tunewright/trainer-cpu-main`."""

    repository: str

    def at_commit(self, code: CodeOrigin, key: str) -> str:
        """The tag that tells the commit. A dirty tree's says so, with its key: it never takes a clean one's place."""
        tag = f"{code.commit}-dirty-{key[:12]}" if code.dirty else code.commit
        return f"{self.repository}:{tag}"

    def at_key(self, key: str) -> str:
        """The tag that tells everything that decided the image."""
        return f"{self.repository}:key-{key}"

    @property
    def latest(self) -> str:
        """The tag that moves: the last one built, for its layers."""
        return f"{self.repository}:latest"


def image_name(prefix: str, branch: str | None, registry: str = "") -> ImageName:
    """`<registry>/<prefix>-<branch, sanitised>`."""
    name = f"{prefix}-{sanitised(branch or DETACHED)}"
    return ImageName(f"{registry.rstrip('/')}/{name}" if registry else name)


def sanitised(branch: str) -> str:
    """A branch as part of a repository's name: small letters, digits and single dashes.

    A name that had to be changed in any way ends in six digits of its SHA-256, so that no two branches share one.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", branch.lower()).strip("-")[:_BRANCH_CHARACTERS].strip("-")
    if plain == branch:
        return plain
    digest = hashlib.sha256(branch.encode()).hexdigest()[:6]
    return f"{plain}-{digest}" if plain else digest


def has_digest(reference: str) -> bool:
    """Whether `reference` means one image for ever: `name@sha256:...`, or an image's id."""
    return _DIGEST_REFERENCE.match(reference) is not None
