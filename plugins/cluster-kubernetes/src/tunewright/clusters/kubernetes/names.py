"""Names as Kubernetes allows them (RFC 1123, labels of 63 characters), whatever a run is called. Pure."""

from __future__ import annotations

import hashlib
import re

SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
LABEL_VALUE = r"^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
LABEL_KEY = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"
SECRET_KEY = r"[-._a-zA-Z0-9]{1,253}"
NAME = "<name>"
KEY = "<key>"
"""What only the submission knows, alone in its place in a plan."""

LABEL = "tunewright.ai"
"""Ours before the `/` of every label and annotation."""

_RUN_CHARACTERS = 32
_DIGEST_CHARACTERS = 10


def object_name(run: str, run_dir: str, key: str) -> str:
    """The name of the job `key`, and of its service. At most 46 characters: pods and JobSets add to it."""
    digest = hashlib.sha256("\0".join((run_dir, key)).encode()).hexdigest()
    return f"tw-{slug(run)}-{digest[:_DIGEST_CHARACTERS]}"


def slug(text: str) -> str:
    """Small letters, digits and dashes of `text`; `run` where there is none of them."""
    dashed = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return dashed[:_RUN_CHARACTERS].strip("-") or "run"


def is_secret_name(text: str) -> bool:
    """Whether a Secret may be called so."""
    return len(text) <= 253 and re.fullmatch(SUBDOMAIN[1:-1], text) is not None


def split_secret(reference: str, default: str) -> tuple[str, str]:
    """`NAME/KEY`, or `KEY` of the Secret `default`. Raises ValueError for what no Secret or key is called."""
    name, slash, key = reference.rpartition("/")
    name = name if slash else default
    if not is_secret_name(name) or not re.fullmatch(SECRET_KEY, key) or key in (".", ".."):
        raise ValueError(f"must be KEY or SECRET/KEY as Kubernetes names them, got {reference!r}")
    return name, key
