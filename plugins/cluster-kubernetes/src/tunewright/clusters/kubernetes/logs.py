"""What a job's pods wrote: from the run's directory where this machine sees it, else from Kubernetes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunewright.clusters.kubernetes.api import Api
from tunewright.clusters.kubernetes.place import Place
from tunewright.clusters.kubernetes.pod_ends import attempt_of, container_state, rank_of
from tunewright.clusters.kubernetes.pods import CONTAINER
from tunewright.clusters.kubernetes.states import read_status
from tunewright.contracts.errors import Unavailable

_PAUSE_SECONDS = 0.1
_LOOK_SECONDS = 1.0
_WATCH_SECONDS = 300
_PIECE_BYTES = 1 << 16


def pieces(api: Api, place: Place, replica: int, follow: bool, since: int) -> Iterator[bytes]:
    """The bytes of all attempts of one node, from byte `since` on."""
    path = Path(place.run_dir, "logs", f"replica-{replica}.log")
    if not follow:
        return _bytes_from(path, since) if path.exists() else _skipped(_of_pods(api, place, replica), since)
    return _followed(api, place, replica, path, since)


def _bytes_from(path: Path, offset: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(offset)
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _skipped(given: Iterator[bytes], count: int) -> Iterator[bytes]:
    for piece in given:
        if len(piece) > count:
            yield piece[count:]
        count = max(0, count - len(piece))


def _of_pods(api: Api, place: Place, replica: int) -> Iterator[bytes]:
    for pod in _pods(api, place, replica):
        yield from api.pod_log(pod["metadata"]["name"], CONTAINER, follow=False)


def _pods(api: Api, place: Place, replica: int) -> list[dict[str, Any]]:
    """The node's pods that have begun, attempt by attempt."""
    own = [pod for pod in api.list_pods([place.name]) if rank_of(pod) == replica]
    begun = [pod for pod in own if container_state(pod, "running") or container_state(pod, "terminated")]
    return sorted(begun, key=lambda pod: (attempt_of(pod), pod["metadata"].get("creationTimestamp", "")))


def _followed(api: Api, place: Place, replica: int, path: Path, since: int) -> Iterator[bytes]:
    end = _End(api, place)
    try:
        has_pod_begun = False
        while not path.exists() and not has_pod_begun and not end.is_there():
            time.sleep(_PAUSE_SECONDS)
            # A pod that has begun writes its file at once: where it is not to be seen, it is on other storage.
            has_pod_begun = end.looks_again() and bool(_pods(api, place, replica)) and not _appears(path)
        if path.exists():
            yield from _followed_file(path, since, end)
        else:
            yield from _skipped(_followed_pods(api, place, replica, end), since)
    finally:
        end.close()


def _appears(path: Path) -> bool:
    time.sleep(_LOOK_SECONDS)
    return path.exists()


def _followed_file(path: Path, offset: int, end: _End) -> Iterator[bytes]:
    while True:
        # Asked before reading: what was written before the end is read after it was known.
        has_ended = end.is_there()
        for piece in _bytes_from(path, offset):
            offset += len(piece)
            yield piece
        if has_ended:
            return
        time.sleep(_PAUSE_SECONDS)


def _followed_pods(api: Api, place: Place, replica: int, end: _End) -> Iterator[bytes]:
    seen: set[str] = set()
    while True:
        has_ended = end.is_there()
        for pod in _pods(api, place, replica):
            name = pod["metadata"]["name"]
            if name not in seen:
                seen.add(name)
                yield from api.pod_log(name, CONTAINER, follow=True)
        if has_ended:
            return
        time.sleep(_LOOK_SECONDS)


class _End:
    """Whether the job has ended: a thread watches its object, so that nobody has to ask again and again."""

    def __init__(self, api: Api, place: Place) -> None:
        self._api = api
        self._place = place
        self._there = threading.Event()
        self._closed = threading.Event()
        self._looked_at = 0.0
        threading.Thread(target=self._watch, name="tunewright-watch", daemon=True).start()

    def is_there(self) -> bool:
        """Whether it has ended, or is gone."""
        return self._there.is_set()

    def looks_again(self) -> bool:
        """True once a second: for questions that are not to be asked all the time."""
        if time.monotonic() - self._looked_at < _LOOK_SECONDS:
            return False
        self._looked_at = time.monotonic()
        return True

    def close(self) -> None:
        """Look no longer, from the next change on."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.is_set() and not self._there.is_set():
            try:
                if self._has_ended(self._api.get(self._place.render, self._place.name)):
                    return
                for job in self._api.watch_job(self._place.render, self._place.name, _WATCH_SECONDS):
                    if self._closed.is_set() or self._has_ended(job or None):
                        return
            except Unavailable:
                time.sleep(_LOOK_SECONDS)  # the server is away for a moment; or it lets us get, and not watch

    def _has_ended(self, job: dict[str, Any] | None) -> bool:
        if job is None or read_status(job, ()).state.is_terminal:
            self._there.set()
        return self._there.is_set()
