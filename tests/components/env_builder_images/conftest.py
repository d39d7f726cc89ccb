"""Checkouts with images, a registry and daemons of their own; nothing of them stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.docker_engine import need_base_image
from servers.registry import Gate, Registry, open_gate, running_registry

from components.env_builder_images.image_checkout import ImageCheckout, image_checkout

_SETTINGS = (
    "TUNEWRIGHT_REGISTRY", "TUNEWRIGHT_BASE_IMAGE", "TUNEWRIGHT_CACHE_FROM", "PANTS_PYTHON_RESOLVES", "PANTS_CONFIG_FILES",
)  # fmt: skip


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
    need_base_image()
    with image_checkout(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageCheckout]:
    """A checkout whose image is built. Tests that share it leave its tree and its image as they are."""
    need_base_image()
    with image_checkout(tmp_path_factory.mktemp("built")) as made:
        made.ensure()
        yield made


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that all tests share: what one has pushed of the base image is not sent again."""
    need_base_image()
    with running_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def gate(registry: Registry) -> Iterator[Gate]:
    """The way to it that all tests take: `gate.address` is the registry's name."""
    with open_gate(registry.port) as opened:
        yield opened
