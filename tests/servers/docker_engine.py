"""The Docker daemon that tests run on, and the base image their containers start from."""

from __future__ import annotations

import functools
import os
import subprocess
import tempfile
from pathlib import Path
from typing import NoReturn

import pytest

BASE_IMAGE = "tunewright/base:bookworm"
"""Debian with Python 3.11 and tini: what `./pants package images/base` makes."""

_BUILD_SECONDS = 300


def need_docker() -> None:
    """Skip the test where no Docker daemon answers; in CI, where one was promised, fail."""
    if problem := _docker_problem():
        _refuse(f"needs a Docker daemon: {problem}")


def need_base_image() -> str:
    """The base image, made where it is not there yet: half a minute, once. Skips or fails as `need_docker`."""
    need_docker()
    if problem := _base_problem():
        _refuse(f"needs the base image {BASE_IMAGE}: {problem}")
    return BASE_IMAGE


def _refuse(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@functools.cache
def _docker_problem() -> str:
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=20)
        client.ping()
        client.close()
    except DockerException as error:
        return str(error)
    return ""


@functools.cache
def _base_problem() -> str:
    import docker
    from docker.errors import ImageNotFound

    client = docker.from_env()
    try:
        client.images.get(BASE_IMAGE)
    except ImageNotFound:
        return _make_base()
    finally:
        client.close()
    return ""


def _make_base() -> str:
    script = Path("images/base/make-rootfs").resolve()
    with tempfile.TemporaryDirectory() as scratch:
        rootfs = Path(scratch) / "rootfs.tar"
        commands = [
            [str(script), str(rootfs)],
            ["docker", "import", "--change", 'CMD ["python3.11"]', str(rootfs), BASE_IMAGE],
        ]
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
            if done.returncode != 0:
                return f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr[-500:]}"
    return ""
