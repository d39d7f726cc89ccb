"""Proving an image: asked inside, without a network, as its own user; what is wrong is named."""

from __future__ import annotations

import io
import json
import tarfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from components.env_builder_images.image_checkout import ImageCheckout, docker_client

_SITE = "/app/lib/python3.11/site-packages"


@pytest.fixture(scope="module")
def key(built: ImageCheckout) -> str:
    return built.ensure().reference.key


@contextmanager
def altered(built: ImageCheckout, files: dict[str, str], *changes: str) -> Iterator[str]:
    """The image with other files in its site-packages, and other configuration, as Docker calls it."""
    reference = f"{built.prefix}-altered:{uuid.uuid4().hex}"
    with docker_client() as client:
        container = client.containers.create(built.ensure().reference.reference)
        try:
            container.put_archive(_SITE, archive(files))
            container.commit(*reference.rsplit(":", 1), changes=list(changes))
        finally:
            container.remove()
        try:
            yield reference
        finally:
            client.api.remove_image(reference)


def archive(files: dict[str, str]) -> bytes:
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name, text in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(text.encode())
                tar.addfile(member, io.BytesIO(text.encode()))
        return buffer.getvalue()


def report(built: ImageCheckout, reference: str, expect: int = 0) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(built.call("verify", reference, "--json", expect=expect).stdout)
    return document


def checks(document: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    return {one["name"]: (one["ok"], one["detail"]) for one in document["checks"]}


def test_a_whole_image_is_proved_by_key_beginning_and_name(built: ImageCheckout, key: str) -> None:
    record = built.record(key)
    found = report(built, key)
    assert found["verified"]
    assert found["packages"] == {"heavy-package": "1.0", "light-package": "2.0"}
    looked = checks(found)
    assert {name: ok for name, (ok, _) in looked.items()} == dict.fromkeys(looked, True)
    assert looked["user"][1] == "uid 10001"
    assert looked["network"][1] == "off"
    assert looked["packages"][1] == "2 packages as locked"
    assert looked["revision"][1] == built.head
    assert looked["record"][1].startswith("as recorded")
    assert looked["gpu"][1] == "none: torch is not in this image"
    for reference in (key[:12], record.names[0]):
        assert report(built, reference)["image_id"] == record.image_id


def test_the_table_says_the_same(built: ImageCheckout, key: str) -> None:
    lines = built.call("verify", key).stdout.splitlines()
    assert [line for line in lines if not line.startswith("ok ")] == []
    assert any(line.split()[1:3] == ["lock", f"sha256:{built.record(key).lock_digest}"] for line in lines), lines


def test_an_image_that_nobody_recorded_is_judged_by_itself(built: ImageCheckout, key: str, tmp_path: Path) -> None:
    stranger = built.elsewhere(tmp_path / "home")
    found = report(stranger, f"{built.prefix}-main:{built.head}")
    assert found["verified"]
    assert checks(found)["record"][1] == "none here: judged by the image alone"


def test_another_version_than_the_locks_is_named(built: ImageCheckout) -> None:
    metadata = "Metadata-Version: 2.1\nName: light-package\nVersion: 9.9\n"
    with altered(built, {"light_package-2.0.dist-info/METADATA": metadata}) as reference:
        assert checks(report(built, reference, expect=65))["packages"] == (False, "light-package 9.9, locked 2.0")
        assert "light-package 9.9, locked 2.0" in built.call("verify", reference, expect=65).stderr


def test_a_package_that_no_lock_has_is_named(built: ImageCheckout) -> None:
    metadata = "Metadata-Version: 2.1\nName: Smuggled_In\nVersion: 1\n"
    with altered(built, {"smuggled-1.dist-info/METADATA": metadata}) as reference:
        assert checks(report(built, reference, expect=65))["packages"] == (False, "smuggled-in 1, locked nowhere")


def test_a_module_that_cannot_be_imported_is_named_with_its_reason(built: ImageCheckout) -> None:
    # Compiled code is not compared with its source: what cannot be loaded is compiled again.
    compiled, source = "light_package/__pycache__/__init__.cpython-311.pyc", "light_package/__init__.py"
    with altered(built, {compiled: "spoilt", source: "import libnothing_that_is_here\n"}) as reference:
        ok, detail = checks(report(built, reference, expect=65))["imports"]
        assert not ok
        assert "light_package: ModuleNotFoundError: No module named 'libnothing_that_is_here'" in detail


def test_root_is_not_what_it_should_run_as(built: ImageCheckout) -> None:
    with altered(built, {}, "USER 0:0") as reference:
        result = built.call("verify", reference, expect=65)
        assert any(line.split() == ["FAILED", "user", "runs", "as", "root"] for line in result.stdout.splitlines())
        assert "user: runs as root" in result.stderr


def test_an_offline_variable_that_is_not_set_is_named(built: ImageCheckout) -> None:
    with altered(built, {}, "ENV HF_HUB_OFFLINE=1") as reference:
        ok, detail = checks(report(built, reference, expect=65))["offline"]
        assert not ok
        assert "TRANSFORMERS_OFFLINE" in detail


def test_a_record_that_does_not_fit_the_image_is_told(built: ImageCheckout, key: str, tmp_path: Path) -> None:
    other = built.elsewhere(tmp_path / "home")
    other.ensure()
    path = other.place(key).directory / "environment.json"
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({**document, "layers": document["layers"][:-1]}))
    ok, detail = checks(report(other, key, expect=65))["record"]
    assert not ok
    assert "layers is" in detail


def test_an_image_without_python_or_a_lock_is_no_environment(built: ImageCheckout) -> None:
    said = built.call("verify", "tunewright/base:bookworm", expect=69).stderr
    assert "cannot be" in said


def test_what_docker_does_not_have_is_not_found(built: ImageCheckout) -> None:
    assert "Docker has no such image" in built.call("verify", "tw-test/absent:1", expect=66).stderr
