"""The labels of an image: the ones every tool knows, and ours, by which it is found again."""

from __future__ import annotations

KEY = "ai.tunewright.key"
"""SHA-256 of everything that decided the image: what tells two images apart."""

LOCK_DIGEST = "ai.tunewright.lock.digest"
"""SHA-256 of the lockfile of its third-party packages."""

TARGET = "ai.tunewright.target"
"""The folder its Dockerfile lies in."""

REVISION = "org.opencontainers.image.revision"
"""The commit it was built from, `<commit>-dirty` where the tree differed."""


def make_labels(
    *, title: str, commit: str, dirty: bool, created: str, version: str, source: str, base_name: str, base_digest: str,
    lock_digest: str | None, key: str, target: str,
) -> dict[str, str]:  # fmt: skip
    """Every label, those without a value left out. Names: the OCI image specification's annotations."""
    labels = {
        "org.opencontainers.image.title": title,
        "org.opencontainers.image.created": created,
        REVISION: f"{commit}-dirty" if dirty else commit,
        "org.opencontainers.image.source": source,
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.base.name": base_name,
        "org.opencontainers.image.base.digest": base_digest,
        LOCK_DIGEST: f"sha256:{lock_digest}" if lock_digest else "",
        KEY: key,
        TARGET: target,
    }
    return {name: value for name, value in sorted(labels.items()) if value}
