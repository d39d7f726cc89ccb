"""A node's log out of CloudWatch: its lines, one after the other, over all starts of the container."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from tunewright.clusters.sagemaker.service import Service

FOLLOW_PAUSE_SECONDS = 2.0
"""Between two questions for new lines."""


class LogText:
    """The log of one node. CloudWatch keeps lines: what was between them, and what is no UTF-8, is not told."""

    def __init__(self, service: Service, name: str, replica: int) -> None:
        self._service, self._name, self._replica = service, name, replica
        self._tokens: dict[str, str] = {}

    def pieces(self, since: int, has_ended: Callable[[], bool] | None) -> Iterator[bytes]:
        """From byte `since` on. With `has_ended` it goes on until that is so and every line was given."""
        position = 0
        while True:
            is_last = has_ended is None or has_ended()  # asked before the lines: none may come after them
            for piece in self._new_pieces():
                if kept := piece[max(0, since - position) :]:
                    yield kept
                position += len(piece)
            if is_last:
                return
            time.sleep(FOLLOW_PAUSE_SECONDS)

    def _new_pieces(self) -> Iterator[bytes]:
        for stream in self._service.log_streams(self._name, self._replica):
            while True:
                token = self._tokens.get(stream)
                lines, following = self._service.log_lines(stream, token)
                self._tokens[stream] = following
                if lines:
                    yield b"".join(line.encode() + b"\n" for line in lines)
                if following == token:
                    break
