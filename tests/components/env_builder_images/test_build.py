"""Building an image: whole or not at all, once, and found again by everything that decided it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.env_builder_images.image_checkout import (
    ImageCheckout,
    docker_client,
    images_of,
    lock_sha256,
    write_package,
)
from tunewright.contracts.environments import EnvironmentRef
from tunewright.contracts.errors import EnvironmentBuildFailed


@pytest.fixture(scope="module")
def reference(built: ImageCheckout) -> EnvironmentRef:
    """The image that the module's tests look at."""
    return built.ensure().reference


def inspected(image: str) -> dict[str, Any]:
    with docker_client() as client:
        document: dict[str, Any] = client.api.inspect_image(image)
        return document


def tagged(repository: str) -> dict[str, str]:
    """Each tag of a repository in the daemon, and the image's id."""
    with docker_client() as client:
        every = client.api.images(repository)
    return {tag.rpartition(":")[2]: one["Id"] for one in every for tag in one["RepoTags"]}


def layers(image: str) -> list[str]:
    found: list[str] = inspected(image)["RootFS"]["Layers"]
    return found


def test_labels_say_everything_that_identifies_the_image(built: ImageCheckout, reference: EnvironmentRef) -> None:
    labels = inspected(reference.reference)["Config"]["Labels"]
    base = inspected("tunewright/base:bookworm")["Id"]
    assert {name: labels.get(name) for name in labels if name.startswith(("org.opencontainers", "ai."))} == {
        "org.opencontainers.image.title": "Tunewright tiny",
        "org.opencontainers.image.created": built.git("show", "--no-patch", "--format=%cI"),
        "org.opencontainers.image.revision": built.head,
        "org.opencontainers.image.version": "4.5.6",
        "org.opencontainers.image.base.name": "tunewright/base:bookworm",
        "org.opencontainers.image.base.digest": base,
        "ai.tunewright.lock.digest": f"sha256:{lock_sha256(built)}",
        "ai.tunewright.key": reference.key,
        "ai.tunewright.target": "images/tiny",
    }


def test_it_is_named_by_prefix_and_branch_and_tagged_with_commit_and_key(
    built: ImageCheckout, reference: EnvironmentRef
) -> None:
    image_id = inspected(reference.reference)["Id"]
    assert tagged(f"{built.prefix}-main") == {built.head: image_id, f"key-{reference.key}": image_id}


def test_the_record_is_whole(built: ImageCheckout, reference: EnvironmentRef) -> None:
    document = json.loads((built.home / "environments" / reference.key / "environment.json").read_bytes())
    image = inspected(reference.reference)
    assert document.pop("built_at") > "2026"
    assert document.pop("build_seconds") > 0
    assert document.pop("python").startswith("3.11.")
    assert document == {
        "kind": "image",
        "key": reference.key,
        "reference": image["Id"],
        "command": ["/app/pex"],
        "variables": {},
        "sha256": image["Id"].removeprefix("sha256:"),
        "lock_digest": lock_sha256(built),
        "commit": built.head,
        "image_id": image["Id"],
        "target": "images/tiny",
        "names": [f"{built.prefix}-main:{built.head}", f"{built.prefix}-main:key-{reference.key}"],
        "repo_digests": [],
        "base_name": "tunewright/base:bookworm",
        "base_digest": inspected("tunewright/base:bookworm")["Id"],
        "layers": image["RootFS"]["Layers"],
        "bytes": image["Size"],
        "dirty": False,
        "models": [],
        "found_in": None,
    }


def test_it_runs_as_nobody_in_particular_under_an_init_process(reference: EnvironmentRef) -> None:
    configuration = inspected(reference.reference)["Config"]
    assert (configuration["User"], configuration["Entrypoint"][0]) == ("10001:10001", "tini")
    with docker_client() as client:
        said = client.containers.run(reference.reference, ["one", "$two"], network_mode="none", remove=True)
    assert said.decode() == "tiny ['one', '$two']\n"


def test_built_again_nothing_is_called_and_the_answer_is_the_same(
    built: ImageCheckout, reference: EnvironmentRef
) -> None:
    calls = built.pants_calls()
    again = built.ensure()
    assert (again.built, again.reference) == (False, reference)
    assert built.pants_calls() == calls
    assert calls == [["images/tiny:code", "images/tiny:dependencies", "images/base:base"]]


def test_another_home_finds_it_in_the_daemon_by_its_key(
    built: ImageCheckout, reference: EnvironmentRef, tmp_path: Path
) -> None:
    other = built.elsewhere(tmp_path / "home")
    found = other.ensure()
    assert (found.built, found.reference) == (False, reference)
    assert other.record(reference.key).found_in == "daemon"
    assert other.record(reference.key).layers == built.record(reference.key).layers


def test_a_plan_tells_the_key_and_name_without_a_daemon(
    checkout: ImageCheckout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")
    request = checkout.image_request().model_copy(update={"plan_only": True})
    from tunewright.env_builder.build import ensure_environment

    planned = ensure_environment(request).reference
    assert planned.reference == f"tunewright/tiny-main:{checkout.head}"
    assert (planned.kind, planned.command, planned.sha256) == ("image", ("/app/pex",), None)
    assert not checkout.home.exists()


def test_a_commit_of_the_docs_is_the_same_image_under_its_own_name_too(checkout: ImageCheckout) -> None:
    first, commit = checkout.ensure(), checkout.head
    checkout.commit("docs/page.md", "words")
    second = checkout.ensure()
    assert (second.built, second.reference) == (False, first.reference)
    image_id = first.reference.reference
    names = tagged(f"{checkout.prefix}-main")
    assert names == {commit: image_id, checkout.head: image_id, f"key-{first.reference.key}": image_id}
    assert checkout.record(first.reference.key).commit == commit


def test_a_changed_line_changes_the_code_layer_only_and_a_light_package_leaves_the_heavy_layer(
    checkout: ImageCheckout,
) -> None:
    first = checkout.ensure().reference
    checkout.edit_program("other")
    second = checkout.ensure()
    assert second.built
    assert second.reference.key != first.key
    before, after = layers(first.reference), layers(second.reference.reference)
    # The base's, heavy and light packages, code, and what WORKDIR makes of a folder that is there: nothing.
    assert len(before) == len(after) == len(layers("tunewright/base:bookworm")) + 4
    assert [was != now for was, now in zip(before, after, strict=True)] == [False] * (len(before) - 2) + [True, False]
    write_package(checkout, "light_package", "2.0", "VERSION = 'changed'\n")
    checkout.git("commit", "--quiet", "-am", "light package")
    third = layers(checkout.ensure().reference.reference)
    assert [was != now for was, now in zip(after, third, strict=True)] == [False] * (len(after) - 3) + [
        True,
        False,
        False,
    ]


def test_an_image_that_was_deleted_is_built_again_byte_for_byte(checkout: ImageCheckout) -> None:
    first = checkout.ensure().reference
    before = layers(first.reference)
    with docker_client() as client:
        client.api.remove_image(first.reference, force=True)
    again = checkout.ensure()
    assert again.built
    assert layers(again.reference.reference) == before


def test_a_name_that_only_begins_as_the_commit_does_is_not_the_image(checkout: ImageCheckout) -> None:
    stranger = inspected("tunewright/base:bookworm")["Id"]
    repository = f"{checkout.prefix}-main"
    with docker_client() as client:
        try:
            for tag in (checkout.head, checkout.head[:12], f"{checkout.head}-dirty"):
                client.api.tag(stranger, repository, tag)
            provided = checkout.ensure()
            assert provided.built
            assert provided.reference.reference != stranger
            assert tagged(repository)[checkout.head] == provided.reference.reference
            assert tagged(repository)[checkout.head[:12]] == stranger
        finally:
            for tag in (checkout.head, checkout.head[:12], f"{checkout.head}-dirty"):
                client.api.remove_image(f"{repository}:{tag}")


def test_an_image_that_does_not_start_is_neither_named_nor_recorded_nor_found_later(checkout: ImageCheckout) -> None:
    checkout.commit("components/tiny/src/tiny_program.py", "raise SystemExit('nothing works here')\n")
    for _ in range(2):
        with pytest.raises(EnvironmentBuildFailed, match="does not start") as caught:
            checkout.ensure()
        assert "nothing works here" in caught.value.message
        assert images_of(checkout, named_only=True) == []
        assert checkout.recorded_keys() == []
