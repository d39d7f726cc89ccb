"""An object store on a loopback port: moto's S3 in a process of its own, found by the variables of s3fs and boto3."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_START_SECONDS = 30


@dataclass(frozen=True)
class ObjectStore:
    """A running store."""

    address: str
    """`http://127.0.0.1:PORT`."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which clients find it, and may use it."""
        return {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """boto3's client, which shares nothing with fsspec."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.address,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    def put(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """A bucket with these objects; it may be there already."""
        client = self.client()
        client.create_bucket(Bucket=bucket)
        for key, content in objects.items():
            client.put_object(Bucket=bucket, Key=key, Body=content)

    def read(self, bucket: str, key: str) -> bytes:
        """An object's content."""
        content: bytes = self.client().get_object(Bucket=bucket, Key=key)["Body"].read()
        return content


@contextmanager
def serve_objects(*program: str) -> Iterator[ObjectStore]:
    """An empty store, until the block ends. `program`: another one that calls `serve`, with its arguments."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, *(program or (__file__,))],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, f"moto's server ended with {process.wait(_START_SECONDS)} before it served"
        store = ObjectStore(f"http://127.0.0.1:{port}")
        _wait_for(store.address)
        yield store
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _wait_for(address: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            urllib.request.urlopen(f"{address}/moto-api/data.json", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def serve() -> None:
    """Serve until killed. The port is the system's choice, told on stdout: one chosen before may be taken by then."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    serve()
