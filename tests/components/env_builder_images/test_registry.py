"""Images and a registry: pushed whole or not at all, found there by everything that decided them."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.registry import PASSWORD, USER, Gate, Registry, open_gate, running_registry

from components.env_builder_images.image_checkout import (
    SITE,
    ImageCheckout,
    docker_client,
    image_checkout,
    images_of,
    write_package,
)
from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.errors import NotFound, Unavailable, UsageError
from tunewright.env_builder.images import registry as product
from tunewright.env_builder.images.daemon import open_daemon
from tunewright.env_builder.images.publish import push_built

_HEADERS_BYTES = 60_000
"""What asking for layers and writing manifests takes, without any layer."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between attempts are short; how many there are is the product's own."""
    monkeypatch.setattr(product, "FIRST_PAUSE_SECONDS", 0.05)


@pytest.fixture(scope="module")
def pushing(tmp_path_factory: pytest.TempPathFactory, gate: Gate, small_base: str) -> Iterator[ImageCheckout]:
    """A checkout whose first image is built and pushed."""
    with image_checkout(tmp_path_factory.mktemp("pushing"), small_base) as made:
        built = made.ensure(registry=gate.address).reference
        push_built(str(made.home), built.key, gate.address)
        yield made


def push(checkout: ImageCheckout, gate: Gate) -> EnvironmentRef:
    """Build what is checked out, and push it."""
    built = checkout.ensure(registry=gate.address).reference
    return push_built(str(checkout.home), built.key, gate.address)


def repository_of(checkout: ImageCheckout) -> str:
    return f"{checkout.prefix}-main"


def forget(checkout: ImageCheckout) -> None:
    """Remove every image of the checkout from the daemon."""
    with docker_client() as client:
        for image_id in images_of(checkout):
            client.api.remove_image(image_id, force=True)


def test_the_reference_is_the_registrys_digest_of_every_tag(
    pushing: ImageCheckout, gate: Gate, registry: Registry
) -> None:
    repository = repository_of(pushing)
    pushed = push(pushing, gate)
    assert registry.tags(repository) == sorted([pushing.head, f"key-{pushed.key}", "latest"])
    digests = {registry.digest(repository, tag) for tag in registry.tags(repository)}
    assert {pushed.reference} == {f"{gate.address}/{repository}@{digest}" for digest in digests}
    record = pushing.record(pushed.key)
    assert (record.reference, record.repo_digests[0]) == (pushed.reference, pushed.reference)
    assert registry.manifest(repository, "latest")["config"]["digest"] == f"sha256:{pushed.sha256}"


def test_pushed_again_nothing_is_sent(pushing: ImageCheckout, gate: Gate) -> None:
    before = gate.sent_bytes
    push(pushing, gate)
    assert gate.sent_bytes - before < _HEADERS_BYTES


def test_a_changed_line_sends_its_own_layer_only(pushing: ImageCheckout, gate: Gate, registry: Registry) -> None:
    old = push(pushing, gate)
    pushing.edit_program("sent")
    before = gate.sent_bytes
    new = push(pushing, gate)
    assert new.reference != old.reference
    assert 0 < gate.sent_bytes - before < _HEADERS_BYTES
    layers = [registry.manifest(repository_of(pushing), f"key-{one.key}")["layers"] for one in (old, new)]
    assert [was == now for was, now in zip(*layers, strict=True)].count(False) == 1


def test_an_image_in_the_registry_is_pulled_and_not_built(pushing: ImageCheckout, gate: Gate, tmp_path: Path) -> None:
    pushed = push(pushing, gate)
    forget(pushing)
    calls = len(pushing.pants_calls())
    other = pushing.elsewhere(tmp_path / "home")
    found = other.ensure(registry=gate.address)
    assert not found.built
    assert found.reference.reference == pushed.reference
    assert found.reference.sha256 == pushed.sha256
    assert other.record(pushed.key).found_in == f"{gate.address}/{repository_of(pushing)}:key-{pushed.key}"
    assert len(pushing.pants_calls()) == calls


def test_an_image_under_the_keys_tag_that_was_built_from_something_else_is_not_used(
    pushing: ImageCheckout, gate: Gate, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    old = push(pushing, gate)
    pushing.edit_program("not the old one")
    key = pushing.ensure(registry=gate.address, branch="scratch").reference.key
    forget(pushing)
    repository = repository_of(pushing)
    registry.put_manifest(repository, f"key-{key}", source_tag=f"key-{old.key}")
    registry.put_manifest(repository, pushing.head, source_tag=f"key-{old.key}")
    provided = pushing.ensure(registry=gate.address)
    assert (provided.built, provided.reference.key) == (True, key)
    assert provided.reference.sha256 != old.sha256
    assert "was built from something else" in capsys.readouterr().err
    pushed = push(pushing, gate)
    assert pushed.reference.endswith(registry.digest(repository, f"key-{key}"))


def test_a_registry_that_dies_in_mid_push_has_no_tag_and_the_next_push_succeeds(
    pushing: ImageCheckout, gate: Gate, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    write_package(pushing, "light_package", "2.0", f"DATA = {bytes(range(256)).hex()!r}\n")
    (pushing.root / SITE / "light_package/noise").write_bytes(noise(400_000))
    pushing.edit_program("dying")
    repository, tags = repository_of(pushing), registry.tags(repository_of(pushing))
    built = pushing.ensure(registry=gate.address).reference
    # One connection is lost within a layer; the daemon itself goes on. Then the way ends before a tag is written.
    with gate.damaged(cuts=1, cut_after_bytes=200_000, closes_at=b"PUT /v2/" + repository.encode() + b"/manifests/"):
        with pytest.raises(Unavailable, match=gate.address):
            push_built(str(pushing.home), built.key, gate.address)
        assert gate.cuts == 0
    assert capsys.readouterr().err.count("trying again in") == product.ATTEMPTS - 1
    assert registry.tags(repository) == tags
    assert pushing.record(built.key).reference == built.reference
    pushed = push_built(str(pushing.home), built.key, gate.address)
    assert pushed.reference.endswith(registry.digest(repository, pushing.head))


def test_a_registry_that_is_away_for_a_moment_is_waited_for(
    pushing: ImageCheckout, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    with gate.damaged(refuses=4):
        pushed = push(pushing, gate)
    assert pushed.reference.startswith(gate.address)
    assert "trying again in" in capsys.readouterr().err


def test_a_registry_that_is_not_there_is_named(pushing: ImageCheckout) -> None:
    with open_gate(1) as nowhere, pytest.raises(Unavailable, match=nowhere.address):
        push_built(str(pushing.home), pushing.ensure().reference.key, nowhere.address)


def test_a_registry_that_refuses_is_not_asked_again(
    pushing: ImageCheckout, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_registry(tmp_path / "guarded", asks_password=True) as guarded:
        with pytest.raises(Unavailable, match="refuses") as caught:
            push_built(str(pushing.home), pushing.ensure().reference.key, guarded.address)
        assert f"docker login {guarded.address}" in caught.value.hint
        assert "trying again" not in capsys.readouterr().err
        assert guarded.catalog() == []
        with open_daemon() as daemon, pytest.raises(Unavailable, match="refuses"):
            product.exists(daemon, f"{guarded.address}/any:tag")
        entry = {"auth": base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()}
        logged_in = {"auths": {guarded.address: entry}}
        (tmp_path / "config.json").write_text(json.dumps(logged_in))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        with open_daemon() as daemon:
            assert not product.exists(daemon, f"{guarded.address}/any:tag")


def test_what_was_never_built_is_not_pushed(pushing: ImageCheckout, gate: Gate) -> None:
    with pytest.raises(NotFound, match="no image was recorded"):
        push_built(str(pushing.home), "0" * 64, gate.address)


def test_without_a_registry_nothing_is_pushed(pushing: ImageCheckout, tmp_path: Path) -> None:
    other = pushing.elsewhere(tmp_path / "home")
    with pytest.raises(UsageError, match="no registry"):
        push_built(str(other.home), other.ensure().reference.key, "")


def test_a_detached_checkout_is_not_pushed_without_the_name_of_a_branch(checkout: ImageCheckout, gate: Gate) -> None:
    checkout.git("checkout", "--quiet", "--detach")
    key = checkout.ensure().reference.key
    with pytest.raises(UsageError, match="no branch"):
        push_built(str(checkout.home), key, gate.address)


def noise(count: int) -> bytes:
    """Bytes that do not compress, the same each time."""
    blocks = (hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(count // 32))
    return b"".join(blocks)
