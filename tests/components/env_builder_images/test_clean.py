"""What can go and what stays: age, the newest of each kind, runs that go on, and what killed builds left."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.env_builder.checkout import Checkout
from components.env_builder_images.image_checkout import ImageCheckout, docker_client, images_of
from tunewright.contracts.errors import Unavailable
from tunewright.env_builder.cleaning import find_candidates, remove_candidate
from tunewright.env_builder.images.record import BuiltImage, write_image
from tunewright.env_builder.record import EnvironmentPlace


def remember(home: Path, letter: str, age_days: float, target: str = "images/tiny") -> str:
    """A record of an image that Docker has no more. Gives its key."""
    key = letter * 64
    built_at = (datetime.now(UTC) - timedelta(days=age_days)).isoformat()
    record = BuiltImage(
        kind="image", key=key, reference="x", command=("/app/pex",), image_id="sha256:" + letter * 64, target=target,
        built_at=built_at, bytes=ord(letter),
    )  # fmt: skip
    write_image(EnvironmentPlace(home, key), record)
    return key


def reasons(home: Path, older_than_days: float = 30, keep: int = 2) -> dict[str, str]:
    return {one.name: one.kept_because for one in find_candidates(home, older_than_days, keep)}


def test_the_newest_of_each_kind_and_the_young_stay(tmp_path: Path) -> None:
    keys = [remember(tmp_path, letter, age) for letter, age in (("a", 90), ("b", 60), ("c", 40), ("d", 1))]
    other = remember(tmp_path, "e", 90, target="images/other")
    assert reasons(tmp_path, keep=1) == {
        keys[0]: "", keys[1]: "", keys[2]: "", keys[3]: "one of the 1 newest of its kind",
        other: "one of the 1 newest of its kind",
    }  # fmt: skip
    assert reasons(tmp_path, keep=0)[keys[3]] == "younger than 30 days"
    assert set(reasons(tmp_path, older_than_days=0, keep=0).values()) == {""}


def test_what_a_run_that_goes_on_uses_stays(tmp_path: Path) -> None:
    key = remember(tmp_path, "a", 90)
    run = tmp_path / "runs/mine"
    run.mkdir(parents=True)
    (run / "environment.json").write_text(json.dumps({"key": key}))
    assert reasons(tmp_path, keep=0) == {key: "run mine uses it"}
    (run / "provenance.json").write_text("{}")
    assert reasons(tmp_path, keep=0) == {key: ""}


def test_the_largest_comes_first(tmp_path: Path) -> None:
    keys = [remember(tmp_path, letter, 90) for letter in "abc"]
    assert [one.name for one in find_candidates(tmp_path, 30, 0)] == keys[::-1]


def test_what_a_killed_build_left_goes_once_nobody_has_touched_it(tmp_path: Path) -> None:
    leftover = tmp_path / "environments" / f".{'a' * 64}.1.tmp"
    (leftover / "trainer.pex").mkdir(parents=True)
    (leftover / "trainer.pex/half").write_bytes(bytes(1000))
    assert reasons(tmp_path) == {leftover.name: "a build may be using it"}
    os.utime(leftover, (time.time() - 7200,) * 2)
    (candidate,) = find_candidates(tmp_path, 30, 2)
    assert (candidate.kept_because, candidate.bytes) == ("", 1000)
    remove_candidate(tmp_path, candidate)
    assert not leftover.exists()


def test_a_dry_run_changes_nothing_and_without_yes_nobody_agrees(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path / "project", tmp_path / "home", tmp_path / "seen")
    checkout.root.mkdir()
    keys = [remember(checkout.home, letter, 90) for letter in "abc"]
    before = sorted(path for path in checkout.home.rglob("*"))
    said = json.loads(checkout.call("clean", "--keep", "1", "--dry-run", "--json").stdout)
    assert (said["dry_run"], said["removed"], len(said["found"])) == (True, 2, 3)
    checkout.call("clean", "--keep", "1", expect=130)
    assert sorted(path for path in checkout.home.rglob("*")) == before
    assert sorted(reasons(checkout.home)) == keys


def test_an_image_goes_with_its_names_and_its_record(checkout: ImageCheckout) -> None:
    key = checkout.ensure().reference.key
    said = checkout.call("clean", "--older-than", "0", "--keep", "0", "--yes").stdout
    assert key[:16] in said
    assert images_of(checkout) == []
    assert list((checkout.home / "environments").iterdir()) == []


def test_an_image_that_a_container_uses_is_not_removed(checkout: ImageCheckout) -> None:
    reference = checkout.ensure().reference
    (candidate,) = find_candidates(checkout.home, 0, 0)
    with docker_client() as client:
        container = client.containers.create(reference.reference)
        try:
            with pytest.raises(Unavailable, match="Docker does not remove"):
                remove_candidate(checkout.home, candidate)
            assert checkout.record(reference.key).image_id == reference.reference
            assert client.images.get(reference.reference).tags != []
        finally:
            container.remove()


def test_a_name_that_somebody_gave_keeps_the_image(checkout: ImageCheckout) -> None:
    image_id = checkout.ensure().reference.reference
    mine = f"{checkout.prefix}-mine:kept"
    with docker_client() as client:
        client.api.tag(image_id, *mine.split(":"))
        (candidate,) = find_candidates(checkout.home, 0, 0)
        remove_candidate(checkout.home, candidate)
        assert client.images.get(image_id).tags == [mine]
        client.images.remove(mine)
