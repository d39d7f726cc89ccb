"""From a planned container to the one that is made: what only the submission knows is filled in. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import Any

LABEL = "ai.tunewright"
"""What the names of all our labels begin with."""

ID, KEY, ATTEMPT, OWNER, NETWORK = "<id>", "<key>", "<attempt>", "<owner of the run's directory>", "<network>"
"""Words of a plan that stand for what only its submission knows. Each stands alone in its place."""


def job_id(run: str, run_dir: str, key: str) -> str:
    """What a submission is called in Docker: its containers' names begin with it, its network has it as name."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", run)[:40]
    return f"tunewright-{name}-{hashlib.sha256(repr((run_dir, key)).encode()).hexdigest()[:12]}"


def container_name(identity: str, rank: int, attempt: int) -> str:
    """Names are unique in a daemon: of two who make the same container, one is told."""
    return f"{identity}-node-{rank}-attempt-{attempt}"


def network_body(planned: dict[str, Any], known: dict[str, str]) -> dict[str, Any]:
    """The body of `POST /networks/create`."""
    words = {ID: known["id"], KEY: known["key"]}
    return {**planned, "Name": known["id"], "Labels": _filled(planned["Labels"], words)}


def container_body(planned: dict[str, Any], known: dict[str, str], attempt: int) -> dict[str, Any]:
    """The body of `POST /containers/create` of one attempt. `known`: `id`, `key`, `user`, `image` (its id)."""
    words = {ID: known["id"], KEY: known["key"], ATTEMPT: str(attempt)}
    hosted = planned["HostConfig"]
    body = {
        **planned,
        "Image": known["image"],
        "User": known["user"] if planned["User"] == OWNER else planned["User"],
        "Env": [f"TUNEWRIGHT_ATTEMPT={attempt}" if is_attempt(item) else item for item in planned["Env"]],
        "Labels": {**_filled(planned["Labels"], words), f"{LABEL}.image": planned["Image"]},
    }
    if hosted["NetworkMode"] == NETWORK:
        body["HostConfig"] = {**hosted, "NetworkMode": known["id"]}
        endpoints = planned["NetworkingConfig"]["EndpointsConfig"]
        body["NetworkingConfig"] = {"EndpointsConfig": {known["id"]: endpoints[NETWORK]}}
    return body


def is_attempt(item: str) -> bool:
    """Whether `item` of the planned variables is the attempt's. The plan has one such name, and gives it this value."""
    return item == f"TUNEWRIGHT_ATTEMPT={ATTEMPT}"


def _filled(labels: dict[str, str], words: dict[str, str]) -> dict[str, str]:
    return {name: words.get(value, value) for name, value in labels.items()}


def secrets_text(secrets: dict[str, str]) -> bytes:
    """What the start program reads: a name, its value's bytes in octal, and so on; a dot for the end."""
    lines = []
    for name, value in secrets.items():
        octal = "".join(f"\\{byte:03o}" for byte in value.encode("utf-8", "surrogateescape"))
        lines += [name, octal]
    return "\n".join([*lines, ".", ""]).encode()
