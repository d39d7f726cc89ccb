"""Another machine's daemon, empty: layers come from a registry, images from an archive; and one whose disk is full."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.registry import Gate, Registry, running_registry
from servers.second_daemon import SecondDaemon, docker, running_daemon

from components.env_builder_images.image_checkout import ImageCheckout, image_checkout
from tunewright.contracts.errors import IntegrityError, NotFound, Unavailable
from tunewright.env_builder.images import registry as product
from tunewright.env_builder.images.archive import load_image, record_file, save_image, sum_file
from tunewright.env_builder.images.daemon import open_daemon
from tunewright.env_builder.images.publish import push_built

_MIB = 2**20


@pytest.fixture(scope="module")
def other(gate: Gate, registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecondDaemon]:
    """An empty daemon that reaches the registry under the same name."""
    with (
        running_daemon() as daemon,
        running_registry(registry.directory, port=gate.port, enter=daemon.enter_network),
    ):
        yield daemon


@pytest.fixture(scope="module")
def base(gate: Gate, small_base: str) -> Iterator[str]:
    """The base image in the registry, by its digest."""
    reference = f"{gate.address}/{small_base}"
    with open_daemon() as daemon:
        daemon.tag(small_base, reference)
        try:
            yield product.push(daemon, reference)
        finally:
            daemon.client.api.remove_image(reference)


@pytest.fixture(scope="module")
def pushed(base: str, gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageCheckout]:
    """A checkout whose image is built here and in the registry."""
    with image_checkout(tmp_path_factory.mktemp("pushed")) as made:
        built = made.ensure(registry=gate.address, base_image=base).reference
        push_built(str(made.home), built.key, gate.address)
        yield made


@pytest.fixture(scope="module")
def archive(pushed: ImageCheckout, base: str, gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its image in a file, with all that belongs to it."""
    key = pushed.ensure(registry=gate.address, base_image=base).reference.key
    file = tmp_path_factory.mktemp("archive") / "tiny.tar.zst"
    with open_daemon() as daemon:
        save_image(daemon, pushed.record(key), file)
    return file


def run_steps(log: str) -> dict[str, bool]:
    """Each RUN step of a build's log, and whether it was taken from elsewhere."""
    steps = dict(re.findall(r"^#(\d+) \[(\S+) \d+/\d+\] RUN ", log, re.MULTILINE))
    return {scope: f"\n#{number} CACHED" in log for number, scope in steps.items()}


def test_an_empty_daemon_takes_the_registrys_layers_and_builds_the_changed_one_only(
    pushed: ImageCheckout, base: str, gate: Gate, other: SecondDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = pushed.ensure(registry=gate.address, base_image=base).reference
    layers = pushed.record(here.key).layers
    monkeypatch.setenv("DOCKER_HOST", other.host)
    there = pushed.elsewhere(tmp_path / "home")
    cache = f"{gate.address}/{pushed.prefix}-main:latest"
    first = there.ensure(base_image=base, cache_from=(cache,))
    assert first.built
    assert there.record(here.key).layers == layers
    log = (there.home / "environments" / f"{here.key}.log").read_text()
    assert run_steps(log) == {"packages": True, "code": True}, log
    assert f"importing cache manifest from {cache}" in log
    there.edit_program("changed")
    second = there.ensure(base_image=base, cache_from=(cache,)).reference
    assert there.record(second.key).layers[:-2] == layers[:-2]
    assert there.record(second.key).layers[-2] != layers[-2]
    log = (there.home / "environments" / f"{second.key}.log").read_text()
    assert run_steps(log) == {"packages": True, "code": False}, log


def test_saved_and_loaded_on_another_daemon_it_is_the_same_image_and_verified_there(
    archive: Path, other: SecondDaemon, pushed: ImageCheckout, tmp_path: Path
) -> None:
    there = pushed.elsewhere(tmp_path / "home")
    loaded = json.loads(there.call("load", str(archive), "--json", DOCKER_HOST=other.host).stdout)
    record = json.loads(record_file(archive).read_bytes())
    assert {**loaded, "found_in": None, "reference": ""} == {**record, "found_in": None, "reference": ""}
    assert (loaded["found_in"], loaded["reference"]) == ("archive", record["image_id"])
    for name in record["names"]:
        assert docker(other.host, "image", "inspect", "--format", "{{.Id}}", name) == record["image_id"]
    report = json.loads(there.call("verify", loaded["key"], "--json", DOCKER_HOST=other.host).stdout)
    assert (report["verified"], report["image_id"]) == (True, record["image_id"])


def test_a_flipped_byte_is_found_and_nothing_is_loaded(archive: Path, other: SecondDaemon, tmp_path: Path) -> None:
    for source in (archive, sum_file(archive), record_file(archive)):
        (tmp_path / source.name).write_bytes(source.read_bytes())
    broken = tmp_path / archive.name
    content = bytearray(broken.read_bytes())
    content[len(content) // 2] ^= 1
    broken.write_bytes(content)
    before = docker(other.host, "images", "--all", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", other.host)
        with open_daemon() as daemon, pytest.raises(IntegrityError, match="sha256 is"):
            load_image(daemon, broken, tmp_path / "home")
    assert docker(other.host, "images", "--all", "--quiet") == before
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("missing", [".sha256", ".json", ""])
def test_an_archive_without_what_belongs_to_it_is_not_loaded(archive: Path, missing: str, tmp_path: Path) -> None:
    for source in (archive, sum_file(archive), record_file(archive)):
        if source.name != f"{archive.name}{missing}":
            (tmp_path / source.name).symlink_to(source)
    with open_daemon() as daemon, pytest.raises(NotFound, match=re.escape(f"{archive.name}{missing}: no such file")):
        load_image(daemon, tmp_path / archive.name, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_record_of_another_image_is_not_taken(archive: Path, pushed: ImageCheckout, tmp_path: Path) -> None:
    for source in (archive, sum_file(archive)):
        (tmp_path / source.name).symlink_to(source)
    record = json.loads(record_file(archive).read_bytes())
    record_file(tmp_path / archive.name).write_text(json.dumps({**record, "image_id": "sha256:" + "0" * 64}))
    with open_daemon() as daemon, pytest.raises(IntegrityError, match="another image"):
        load_image(daemon, tmp_path / archive.name, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_the_sum_is_what_sha256sum_reads(archive: Path) -> None:
    import hashlib

    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert sum_file(archive).read_text() == f"{digest}  {archive.name}\n"


def test_a_save_that_is_cut_short_leaves_no_archive(
    pushed: ImageCheckout, base: str, gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = pushed.record(pushed.ensure(registry=gate.address, base_image=base).reference.key)
    (tmp_path / "tiny.tar.zst.sha256").write_text("of an older one")
    with open_daemon() as daemon:
        pieces = daemon.client.api.get_image(record.image_id)

        def interrupted(image: str) -> Iterator[bytes]:
            yield next(iter(pieces))
            raise KeyboardInterrupt

        monkeypatch.setattr(daemon.client.api, "get_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_image(daemon, record, tmp_path / "tiny.tar.zst")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_nothing_is_named(checkout: ImageCheckout, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout.write("images/huge/data", "")
    with (checkout.root / "images/huge/data").open("r+b") as file:
        file.truncate(96 * _MIB)
    base = f"tw-test-{checkout.token}/empty:1"
    checkout.commit("images/huge/Dockerfile", "ARG BASE_IMAGE=images/base:base\nFROM ${BASE_IMAGE}\n"
                    'COPY images/huge/data /data\nENTRYPOINT ["/app/pex"]\n')  # fmt: skip
    with running_daemon(disk_bytes=64 * _MIB) as small:
        docker(small.host, "import", "-", base, stdin=bytes(10240))  # an empty archive
        monkeypatch.setenv("DOCKER_HOST", small.host)
        with pytest.raises(Unavailable, match="the disk is full") as caught:
            checkout.ensure("images/huge", base_image=base)
        assert "env-builder clean" in caught.value.hint
        assert docker(small.host, "images", "--format", "{{.Repository}}:{{.Tag}}") == base
        assert checkout.recorded_keys() == []
