"""A webhook on a loopback port: answers as it is told, and keeps what it was sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "T0P-s3cr3t"


@dataclass
class Webhook:
    """A running webhook."""

    url: str = ""
    received: list[dict[str, Any]] = field(default_factory=list)
    """The bodies that it was sent, in their order."""


@contextmanager
def serve_webhook(statuses: Sequence[int] = (), pause: threading.Event | None = None) -> Iterator[Webhook]:
    """A webhook that answers with `statuses`, one after the other, then with 200; with `pause` only after that."""
    webhook, answers = Webhook(), iter(statuses)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/json"
            webhook.received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if pause is not None:
                pause.wait(30)
            self.send_response(next(answers, 200))
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    webhook.url = f"http://127.0.0.1:{server.server_address[1]}/services/{SECRET}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield webhook
    finally:
        if pause is not None:
            pause.set()
        server.shutdown()
        server.server_close()
        thread.join()
