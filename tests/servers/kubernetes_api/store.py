"""Objects by kind, namespace and name, each change numbered and told to whoever watches.

A document that was kept is never changed: the next version takes its place. So readers share them.
"""

from __future__ import annotations

import copy
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

Document = dict[str, Any]
Key = tuple[str, str, str]


class ConflictError(Exception):
    """There is an object of this name."""


class MissingError(Exception):
    """There is none."""


def now() -> str:
    """The time as Kubernetes writes it: whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """What etcd is to Kubernetes."""

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self._objects: dict[Key, Document] = {}
        self._events: list[tuple[int, str, str, Document]] = []
        self._revision = 0

    @property
    def revision(self) -> str:
        """The number of the last change."""
        return str(self._revision)

    def create(self, plural: str, document: Document) -> Document:
        """Keep a new object. Raises ConflictError."""
        document = copy.deepcopy(document)
        metadata = document["metadata"]
        key = (plural, metadata.get("namespace", ""), metadata["name"])
        with self.changed:
            if key in self._objects:
                raise ConflictError(metadata["name"])
            metadata["uid"], metadata["creationTimestamp"] = str(uuid.uuid4()), now()
            self._objects[key] = document
            self._tell("ADDED", plural, document)
            return {**document}

    def get(self, plural: str, namespace: str, name: str) -> Document:
        """One object. Raises MissingError."""
        with self.changed:
            try:
                return {**self._objects[plural, namespace, name]}
            except KeyError:
                raise MissingError(name) from None

    def list(self, plural: str, namespace: str) -> list[Document]:
        """All of a kind; of every namespace where `namespace` is empty."""
        with self.changed:
            return [{**one} for key, one in self._objects.items() if key[0] == plural and namespace in ("", key[1])]

    def change(self, plural: str, namespace: str, name: str, how: Callable[[Document], object]) -> Document:
        """Change one object by `how`, which gets it. Raises MissingError."""
        with self.changed:
            key = (plural, namespace, name)
            if key not in self._objects:
                raise MissingError(name)
            document = copy.deepcopy(self._objects[key])
            how(document)
            if document != self._objects[key]:
                self._objects[key] = document
                self._tell("MODIFIED", plural, document)
                self._remove_if_done(key)
            return {**document}

    def delete(self, plural: str, namespace: str, name: str) -> Document:
        """Mark it as going where somebody holds it by a finalizer; else it is gone at once. Raises MissingError."""

        def mark(document: Document) -> None:
            document["metadata"].setdefault("deletionTimestamp", now())

        with self.changed:
            document = self.change(plural, namespace, name, mark)
            self._remove_if_done((plural, namespace, name))
            return document

    def _remove_if_done(self, key: Key) -> None:
        document = self._objects.get(key)
        if document and document["metadata"].get("deletionTimestamp") and not document["metadata"].get("finalizers"):
            del self._objects[key]
            self._tell("DELETED", key[0], {**document, "metadata": {**document["metadata"]}})

    def _tell(self, word: str, plural: str, document: Document) -> None:
        self._revision += 1
        document["metadata"]["resourceVersion"] = str(self._revision)
        self._events.append((self._revision, word, plural, document))
        self.changed.notify_all()

    def watch(self, plural: str, since: str | None, seconds: float) -> Iterator[tuple[str, Document]]:
        """What happens to a kind, from revision `since` on; without it, what is there comes first."""
        deadline = time.monotonic() + seconds
        with self.changed:
            given = [("ADDED", one) for one in self.list(plural, "")] if since in (None, "", "0") else []
            seen = len(self._events) if given or since in (None, "", "0") else self._position(int(since or 0))
        yield from given
        while time.monotonic() < deadline:
            with self.changed:
                if seen == len(self._events):
                    self.changed.wait(min(0.5, max(0.0, deadline - time.monotonic())))
                fresh, seen = self._events[seen:], len(self._events)
            yield from ((word, one) for _, word, kind, one in fresh if kind == plural)
            if not fresh:
                yield "", {}  # nothing, so that who has hung up is noticed

    def _position(self, revision: int) -> int:
        return sum(1 for event in self._events if event[0] <= revision)
