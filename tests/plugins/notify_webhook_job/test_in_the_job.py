"""The job itself tells a webhook of its checkpoints and its end; one that does not take it harms nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model, run_trainer

pytestmark = pytest.mark.timeout(180)

RECEIVED: list[dict[str, Any]] = []


class Handler(BaseHTTPRequestHandler):
    """Takes what is posted to `/good...`, and refuses the rest."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/good"):
            RECEIVED.append(json.loads(body))
        self.send_response(200 if self.path.startswith("/good") else 403)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing on the error stream."""


@pytest.fixture
def address() -> Iterator[str]:
    RECEIVED.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_job_tells_of_its_checkpoints_and_its_end(tmp_path: Path, address: str) -> None:
    model, cache = make_model(tmp_path / "base"), make_cache(tmp_path / "cache", make_conversations(8))
    notifications = {"webhook_variable": "HOOK", "format": "json", "on": ["checkpoint", "succeeded", "submitted"]}
    tables = {"notifications": notifications}
    options: dict[str, Any] = {"checkpoint": {"every_steps": 1}, "max_steps": 2, "tables": tables}
    told = run_trainer("train", make_job(tmp_path, model, cache, run="told", **options), HOOK=f"{address}/good-s3cr3t")
    assert told.returncode == 0, told.stderr
    assert [(one["event"], one.get("step") or one.get("steps")) for one in RECEIVED] == [
        ("checkpoint", 1), ("checkpoint", 2), ("succeeded", 2),
    ]  # fmt: skip
    refused = run_trainer("train", make_job(tmp_path, model, cache, run="not", **options), HOOK=f"{address}/bad-s3cr3t")
    assert refused.returncode == 0, refused.stderr
    assert refused.stderr.count("the webhook was not told: it answers with HTTP status 403") == 3
    written = [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()]
    assert not written, f"the URL is written in {written}"
    assert "s3cr3t" not in told.stdout + told.stderr + refused.stdout + refused.stderr
