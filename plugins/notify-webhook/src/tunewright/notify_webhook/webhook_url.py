"""Where the webhook's URL is found. It is a secret: whoever has it may post. It goes to no message."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tunewright.contracts.errors import SubmissionRefused, Unavailable
from tunewright.contracts.secret_values import read_secrets


def find_url(variable: str, secrets: Mapping[str, str], run_dir: str | None) -> str:
    """The value of `variable`, or of the secret that `[cluster.secrets]` gives it. Raises Unavailable.

    `secrets`: variable to secret's name. `run_dir` tells where the launcher keeps secrets; None: not known.
    """
    url = os.environ.get(variable)
    if url is None and variable in secrets:
        try:
            url = read_secrets({variable: secrets[variable]}, Path(run_dir or os.devnull))[variable]
        except SubmissionRefused:
            url = None
    if not url:
        hint = f"set the variable {variable} here too"
        raise Unavailable(f"nobody was told: notifications.webhook_variable: {variable} is not set here", hint)
    return url.strip()
