"""A dataset at a URL: copied to the node once, verified, and trained on as one in a directory is."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from conformance.tiny_jobs import make_cache, make_conversations, make_job, make_model
from tunewright.contracts.errors import CacheCorrupted, NotFound
from tunewright.trainer.node import run_node


class Bucket(SimpleHTTPRequestHandler):
    """A storage that can be read only: S3's answers to GET and HEAD are those of a server of files."""

    asked: list[str] = []

    def do_GET(self) -> None:
        if "list-type=2" in self.path:  # is it a folder? There are none
            self._answer(200, b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>")
        else:
            super().do_GET()

    def end_headers(self) -> None:
        self.send_header("ETag", '"some-version"')
        super().end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        self._answer(code, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>")

    def _answer(self, code: int, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        self.asked.append(str(args[0]))


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory that `s3://` serves, and a node's directory for copies."""
    from s3fs import S3FileSystem

    directory = tmp_path / "storage"
    directory.mkdir()
    Bucket.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Bucket, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}", "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        "TUNEWRIGHT_NODE_CACHE": str(tmp_path / "node"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    yield directory
    server.shutdown()
    server.server_close()


@pytest.fixture
def cache(bucket: Path) -> Path:
    """A cache in the storage."""
    return make_cache(bucket / "bucket" / "caches", make_conversations(6))


def remote_job(tmp_path: Path, cache: Path, run: str = "run") -> Path:
    """A job whose dataset is at a URL only."""
    job = make_job(tmp_path, make_model(tmp_path / f"model-{run}"), cache, run=run)
    document = json.loads(job.read_text())
    document["dataset"]["path"] = f"s3://bucket/caches/{cache.name}"
    job.write_text(json.dumps(document))
    return job


def gets() -> int:
    return sum(request.startswith("GET ") for request in Bucket.asked)


def test_a_dataset_at_a_url_is_copied_to_the_node_once_and_trained_on(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_node(remote_job(tmp_path, cache)) == 0
    assert f"copying it from s3://bucket/caches/{cache.name}" in capsys.readouterr().err
    copy, asked = tmp_path / "node" / cache.name, gets()
    assert sorted(path.name for path in copy.iterdir()) == sorted(path.name for path in cache.iterdir())
    assert asked >= len(list(cache.iterdir()))
    assert run_node(remote_job(tmp_path, cache, run="again")) == 0
    assert gets() == asked


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def test_a_byte_that_was_changed_at_the_url_or_in_the_copy_is_never_trained_on(tmp_path: Path, cache: Path) -> None:
    job, shard = remote_job(tmp_path, cache), cache / "tokens-00001.arrow"
    flip(shard)
    with pytest.raises(CacheCorrupted, match=rf"s3://bucket/caches/{cache.name}/tokens-00001.arrow: sha256") as caught:
        run_node(job)
    assert caught.value.exit_code == 65
    assert list((tmp_path / "node").glob("*/manifest.json")) == []
    flip(shard)
    assert run_node(job) == 0
    flip(tmp_path / "node" / cache.name / shard.name)
    with pytest.raises(CacheCorrupted, match=r"tokens-00001.arrow: sha256"):
        run_node(remote_job(tmp_path, cache, run="again"))


def test_a_dataset_that_is_not_at_its_url_is_not_found(tmp_path: Path, cache: Path) -> None:
    job = remote_job(tmp_path, cache)
    (cache / "manifest.json").unlink()
    with pytest.raises(NotFound, match="no prepared dataset"):
        run_node(job)
