"""A tree that differs from its commit: refused, or built beside the commit's own image with what differs kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from components.env_builder_images.image_checkout import PROGRAM, ImageCheckout, docker_client
from tunewright.env_builder.images import labels


@pytest.fixture
def edited(checkout: ImageCheckout) -> ImageCheckout:
    """A line was changed and files of every kind are new."""
    checkout.write(PROGRAM, "def main(arguments):\n    print('dirty')\n    return 0\n")
    checkout.write("components/tiny/src/new.py", "NEW = 1\n")
    (checkout.root / "components/tiny/src/bytes").write_bytes(bytes(range(256)))
    return checkout


def test_it_is_refused_and_what_differs_is_named(edited: ImageCheckout) -> None:
    calls = edited.pants_calls()
    refused = edited.call("build", "images/tiny", "--prefix", edited.prefix, expect=77)
    assert "git-tree-dirty" in refused.stderr
    assert PROGRAM in refused.stderr
    assert edited.pants_calls() == calls


def test_where_allowed_it_is_built_beside_the_commits_own_and_its_patch_is_kept(
    edited: ImageCheckout, tmp_path: Path
) -> None:
    edited.git("stash", "--quiet", "--include-untracked")
    clean = edited.ensure().reference
    edited.git("stash", "pop", "--quiet")
    said = edited.call("build", "images/tiny", "--prefix", edited.prefix, "--allow-dirty", "--json").stdout
    document = json.loads(said)
    assert document["built"]
    assert document["key"] != clean.key
    dirty = edited.record(document["key"])
    assert dirty.names == (
        f"{edited.prefix}-main:{edited.head}-dirty-{dirty.key[:12]}",
        f"{edited.prefix}-main:key-{dirty.key}",
    )
    assert (dirty.dirty, dirty.commit) == (True, edited.head)
    with docker_client() as client:
        assert client.images.get(f"{edited.prefix}-main:{edited.head}").id == clean.reference
        image = client.images.get(dirty.reference)
        assert image.labels[labels.REVISION] == f"{edited.head}-dirty"
        assert client.containers.run(image.id, network_mode="none", remove=True) == b"dirty\n"
    assert_patch_gives_the_tree(edited, edited.place(dirty.key).directory / "dirty.patch", tmp_path / "clone")


def test_another_home_that_finds_it_keeps_the_patch_too(edited: ImageCheckout, tmp_path: Path) -> None:
    key = edited.ensure(dirty=True).reference.key
    other = edited.elsewhere(tmp_path / "other")
    assert not other.ensure(dirty=True).built
    patch = other.place(key).directory / "dirty.patch"
    assert patch.read_bytes() == (edited.place(key).directory / "dirty.patch").read_bytes()


def test_the_clean_commit_is_never_the_dirty_image(edited: ImageCheckout) -> None:
    dirty = edited.ensure(dirty=True).reference
    edited.git("checkout", "--quiet", ".")
    edited.git("clean", "-fdq")
    clean = edited.ensure()
    assert clean.built
    assert clean.reference.sha256 != dirty.sha256
    edited.git("commit", "--quiet", "--allow-empty", "-m", "later")
    assert edited.ensure().reference == clean.reference


def assert_patch_gives_the_tree(edited: ImageCheckout, patch: Path, clone: Path) -> None:
    edited.git("clone", "--quiet", str(edited.root), str(clone))
    there = replace(edited, root=clone)
    there.git("apply", str(patch))
    for name in (PROGRAM, "components/tiny/src/new.py", "components/tiny/src/bytes"):
        assert (clone / name).read_bytes() == (edited.root / name).read_bytes()
    assert sorted(there.changed) == sorted(edited.changed)
