"""Checkouts with images, a registry and daemons of their own; nothing of them stays."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.docker_engine import need_base_image, need_docker
from servers.registry import Gate, Registry, open_gate, running_registry

from components.env_builder_images.image_checkout import ImageCheckout, docker_client, image_checkout

_SETTINGS = ("TUNEWRIGHT_REGISTRY", "TUNEWRIGHT_BASE_IMAGE", "TUNEWRIGHT_CACHE_FROM", "PANTS_PYTHON_RESOLVES")
_SMALL = """
cd / && tar cf - --exclude=__pycache__ --exclude=ensurepip --exclude=lib2to3 --exclude=pydoc_data \\
    bin lib lib64 tmp usr/bin/python3.11 usr/bin/tini usr/lib/python3.11 usr/lib64 usr/lib/*-linux-gnu/ld-* \\
    $(for name in bz2 c crypto expat ffi lzma m ssl z; do ls -d usr/lib/*-linux-gnu/lib$name[.-]*so*; done 2>/dev/null)
"""
"""Packs Python, what it links to, and the init process."""


@pytest.fixture(autouse=True, scope="session")
def no_settings() -> Iterator[None]:
    """What this machine's owner has set is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _SETTINGS:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[ImageCheckout]:
    """A committed checkout, with nothing built."""
    with image_checkout(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageCheckout]:
    """A checkout whose image is built. Tests that share it leave its tree and its image as they are."""
    with image_checkout(tmp_path_factory.mktemp("built")) as made:
        made.ensure()
        yield made


@pytest.fixture(scope="session")
def small_base() -> Iterator[str]:
    """The base image without what these tests do not start: pushed, pulled and saved in a second."""
    name = f"tw-test-{uuid.uuid4().hex[:12]}/small:1"
    archive = ["docker", "run", "--rm", "--network=none", need_base_image(), "sh", "-c", _SMALL]
    with subprocess.Popen(archive, stdout=subprocess.PIPE) as process:
        subprocess.run(["docker", "import", "-", name], stdin=process.stdout, check=True, capture_output=True)
    assert process.returncode == 0
    try:
        yield name
    finally:
        with docker_client() as client:
            client.api.remove_image(name, force=True)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that all tests share: what one has pushed of the base image is not sent again."""
    need_docker()
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def gate(registry: Registry) -> Iterator[Gate]:
    """The way to it that all tests take: `gate.address` is the registry's name."""
    with open_gate(registry.port) as opened:
        yield opened
