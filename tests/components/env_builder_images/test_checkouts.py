"""Checkouts that surprise: detached, shallow, with submodules; and what branches make of names."""

from __future__ import annotations

import json
import re
import string
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.env_builder_images.image_checkout import ImageCheckout
from tunewright.contracts.environments import CodeOrigin
from tunewright.env_builder.images.names import has_digest, image_name, sanitised

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
"""A repository's name, as the registry's specification has it."""

_BRANCHES = st.text(st.sampled_from(string.ascii_letters + string.digits + "-_./#+ü漢"), min_size=1, max_size=100)


def codes(checkout: ImageCheckout, expect: int = 0) -> dict[str, str]:
    """Each finding of `check`, and how bad it is."""
    said = checkout.call("check", "images/tiny", "--json", expect=expect).stdout
    return {finding["code"]: finding["severity"] for finding in json.loads(said)["findings"]}


def test_a_plain_checkout_has_nothing_to_be_said_of(checkout: ImageCheckout) -> None:
    assert [code for code in codes(checkout) if code.startswith(("checkout", "submodule", "git", "docker"))] == []


def test_a_detached_checkout_is_worth_a_word_and_its_image_is_named_so(checkout: ImageCheckout) -> None:
    checkout.git("checkout", "--quiet", "--detach")
    assert codes(checkout)["checkout-detached"] == "warning"
    key = checkout.ensure().reference.key
    assert checkout.record(key).names[0] == f"{checkout.prefix}-detached:{checkout.head}"


def test_a_shallow_checkout_is_worth_a_word_and_has_the_same_key(checkout: ImageCheckout, tmp_path: Path) -> None:
    checkout.commit("docs/page.md", "a second commit")
    checkout.git("clone", "--quiet", "--depth=1", f"file://{checkout.root}", str(tmp_path / "shallow"))
    shallow = replace(checkout, root=tmp_path / "shallow", home=tmp_path / "other")
    assert codes(shallow)["checkout-shallow"] == "warning"
    built = checkout.ensure()
    found = shallow.ensure()
    assert (built.built, found.built) == (True, False)
    assert found.reference == built.reference


@pytest.mark.parametrize("state", ["missing", "elsewhere"])
def test_a_submodule_that_is_not_at_its_commit_is_refused(checkout: ImageCheckout, state: str, tmp_path: Path) -> None:
    with_submodule = add_submodule(checkout, tmp_path / "library")
    assert "submodule-not-at-commit" not in codes(with_submodule)
    library = with_submodule.root / "vendor/library"
    if state == "missing":
        with_submodule.git("submodule", "deinit", "--quiet", "--force", "vendor/library")
    else:
        replace(with_submodule, root=library).git("checkout", "--quiet", "HEAD~1")
    assert codes(with_submodule, expect=77)["submodule-not-at-commit"] == "error"
    refused = with_submodule.call("build", "images/tiny", "--prefix", checkout.prefix, expect=77)
    assert "vendor/library" in refused.stderr
    assert "git submodule update" in refused.stderr
    assert with_submodule.pants_calls() == []


def add_submodule(checkout: ImageCheckout, library: Path) -> ImageCheckout:
    """The checkout with a submodule that has two commits, at the later one."""
    library.mkdir()
    source = replace(checkout, root=library)
    source.git("init", "--quiet", "--initial-branch=main")
    source.commit("one", "1")
    source.commit("two", "2")
    checkout.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(library), "vendor/library")
    checkout.git("commit", "--quiet", "-am", "submodule")
    return checkout


def test_a_folder_that_is_no_checkout_is_told_in_words(checkout: ImageCheckout, tmp_path: Path) -> None:
    plain = replace(checkout, root=tmp_path / "plain")
    plain.write("images/tiny/Dockerfile", (checkout.root / "images/tiny/Dockerfile").read_text())
    plain.write("pants.toml", "")
    assert "not-a-git-checkout" in plain.call("build", "images/tiny", expect=77).stderr


@given(_BRANCHES)
def test_every_branch_gives_a_valid_repository(branch: str) -> None:
    repository = image_name("tunewright/trainer-cpu", branch).repository
    assert _REPOSITORY.fullmatch(repository), repository
    assert len(repository) < 128


@given(_BRANCHES, _BRANCHES)
def test_no_two_branches_share_a_repository(first: str, second: str) -> None:
    if first != second:
        assert sanitised(first) != sanitised(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [("feature/a", "feature-a"), ("Main", "main"), ("a_b", "a.b"), ("x" * 70, "x" * 71), ("ü", "ä"), ("-", "--")],
)
def test_branches_that_look_alike_stay_apart(first: str, second: str) -> None:
    assert sanitised(first) != sanitised(second)


def test_a_plain_branch_keeps_its_name() -> None:
    assert (
        image_name("lab/tiny", "fix-7", "registry.example:5000/").repository == "registry.example:5000/lab/tiny-fix-7"
    )


def test_the_tags_are_whole_commits_and_keys() -> None:
    name, commit, key = image_name("tiny", "main"), "c" * 40, "k" * 64
    assert name.at_commit(CodeOrigin(commit=commit), key) == f"tiny-main:{commit}"
    assert name.at_commit(CodeOrigin(commit=commit, dirty=True), key) == f"tiny-main:{commit}-dirty-{'k' * 12}"
    assert name.at_key(key) == f"tiny-main:key-{key}"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [(f"a/b@sha256:{'0' * 64}", True), (f"sha256:{'f' * 64}", True), ("a/b:tag", False),
     (f"a@sha256:{'0' * 63}", False), (f"a:sha256-{'0' * 64}", False), ("images/trainer-cpu", False)],
)  # fmt: skip
def test_only_a_whole_digest_means_one_image_for_ever(reference: str, expected: bool) -> None:
    assert has_digest(reference) is expected
