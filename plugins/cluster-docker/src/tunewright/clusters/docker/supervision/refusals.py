"""The daemon's words for what it did not do, in ours. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """Why the daemon did not start a container."""

    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


# What stands in the daemon's message, what we say, and what to do. `{0}` is the pattern's group.
_WORDS = (
    (r"could not select device driver .*gpu", "Docker on this machine has no GPU to give",
     'install the NVIDIA container toolkit, or set cluster.options.gpus = "none"'),
    (r"nvidia-container-cli: (?:device error: )?(.*?)(?::? unknown)?$", "the GPUs asked for cannot be had: {0}",
     "see `nvidia-smi -L`, and cluster.options.gpus"),
    (r"bind source path does not exist: (.*)", "{0} is to be mounted, and is not there", ""),
    (r"[Nn]o such image: (\S+)", "the image {0} is not here any more", "make it again: `env-builder build`"),
    (r'exec: "/bin/sh"|exec /bin/sh failed', "the image has no /bin/sh, which starts the job's command",
     "see the README of tunewright-cluster-docker"),
    (r"unable to find user ([^:]+)", "the image knows no user `{0}`",
     "set cluster.options.user to numbers, UID:GID, or leave it out"),
    (r"exec: \"docker-init\"|docker-init.*not found", "this machine's Docker has no docker-init (tini)",
     "install it: Docker's own packages have it"),
    (r"non-overlapping IPv4 address pool", "Docker has no address left for another network",
     "see `docker network ls`; `docker network prune` removes unused ones"),
)  # fmt: skip


def in_words(message: str) -> Refusal:
    """What the daemon said, for people. What we do not know is passed on as it is."""
    return _known(message) or Refusal(f"Docker says: {message}")


def complaint_in_words(message: str) -> str:
    """What a container's first process said before it became the job, for people."""
    return str(_known(message) or message)


def _known(message: str) -> Refusal | None:
    for pattern, words, hint in _WORDS:
        if found := re.search(pattern, message, re.DOTALL):
            return Refusal(words.format(*(group or "" for group in found.groups())), hint)
    return None
