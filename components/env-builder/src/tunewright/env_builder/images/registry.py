"""Pushing to and pulling from a registry, through the daemon: again where a connection is lost, whole or not at all."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from tunewright.contracts.errors import NotFound, TunewrightError, Unavailable
from tunewright.env_builder.images.daemon import Daemon, LocalImage
from tunewright.env_builder.progress import say, showing_bytes

ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 1.0

_REFUSED = re.compile(r"denied|unauthorized|authentication required|no basic auth|forbidden|insufficient_scope", re.I)
_ABSENT = re.compile(r"manifest (for \S+ )?(unknown|not found)|not found|repository \S+ not found|name unknown", re.I)

Answer = TypeVar("Answer")


def push(daemon: Daemon, reference: str) -> str:
    """Push one tag; layers that are there are not sent again. Gives `repository@sha256:...`.

    A registry takes the tag last, so what is cut short leaves no tag. Raises Unavailable in the registry's own words.
    """
    repository, _, tag = reference.rpartition(":")
    digest = _again(lambda: _push_once(daemon, repository, tag), f"pushing {reference}")
    return f"{repository}@{digest}"


def pull(daemon: Daemon, reference: str) -> LocalImage | None:
    """Pull one tag or digest, None where the registry has none. Raises Unavailable in the registry's own words."""
    try:
        _again(lambda: _pull_once(daemon, reference), f"pulling {reference}")
    except NotFound:
        return None
    return daemon.find(reference)


def exists(daemon: Daemon, reference: str) -> bool:
    """Whether the registry has this tag, without pulling it."""

    def ask() -> bool:
        from docker.errors import APIError

        try:
            daemon.client.api.inspect_distribution(reference)
        except APIError as error:
            raise _error_of(str(error.explanation or error), reference) from None
        return True

    try:
        return _again(ask, f"asking for {reference}")
    except NotFound:
        return False


def _push_once(daemon: Daemon, repository: str, tag: str) -> str:
    reference, digest = f"{repository}:{tag}", ""
    for event in _watched(daemon.client.api.push(repository, tag, stream=True, decode=True), f"pushing {reference}"):
        digest = (event.get("aux") or {}).get("Digest") or digest
        if "error" in event:
            raise _error_of(str(event["error"]), reference)
    if not digest:
        raise Unavailable(f"the registry confirmed no digest for {reference}")
    return digest


def _pull_once(daemon: Daemon, reference: str) -> None:
    from docker.errors import APIError

    try:
        for event in _watched(_pull_events(daemon, reference), f"pulling {reference}"):
            if "error" in event:
                raise _error_of(str(event["error"]), reference)
    except APIError as error:
        raise _error_of(str(error.explanation or error), reference) from None


def _pull_events(daemon: Daemon, reference: str) -> Iterator[dict[str, Any]]:
    events: Iterator[dict[str, Any]] = daemon.client.api.pull(reference, stream=True, decode=True)
    return events


def _watched(events: Iterable[dict[str, Any]], what: str) -> Iterator[dict[str, Any]]:
    """The events as they come, with the bytes of all layers shown."""
    layers: dict[str, tuple[int, int]] = {}
    with showing_bytes(what) as show:
        for event in events:
            detail: Mapping[str, Any] = event.get("progressDetail") or {}
            if "current" in detail and event.get("status") in ("Pushing", "Downloading"):
                layers[str(event.get("id"))] = (int(detail["current"]), int(detail.get("total") or 0))
                show(sum(done for done, _ in layers.values()), sum(total for _, total in layers.values()))
            yield event


def _error_of(words: str, reference: str) -> TunewrightError:
    registry = reference.partition("/")[0]
    if _REFUSED.search(words):
        return _Final(f"the registry refuses {reference}: {words}", f"`docker login {registry}`, or another registry")
    if _ABSENT.search(words):
        return NotFound(f"the registry has no {reference}: {words}")
    return Unavailable(f"the registry {registry} failed: {words}", "is it up, and can this machine reach it?")


class _Final(Unavailable):
    """Trying again would not help."""


def _again(call: Callable[[], Answer], what: str) -> Answer:
    """Call, and call again after 1, 2, 4 seconds where a registry or the way to it fails."""
    for attempt in range(1, ATTEMPTS):
        try:
            return call()
        except (_Final, NotFound):
            raise
        except Unavailable as error:
            pause_seconds = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)
            say(f"{what}: {error.message}; trying again in {pause_seconds:.0f} s ({attempt} of {ATTEMPTS - 1})")
            time.sleep(pause_seconds)
    return call()
