"""The key: what changes it, and what does not."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from components.env_builder.checkout import Checkout
from tunewright.contracts.errors import NotFound
from tunewright.env_builder.build import ensure_environment


def key_of(checkout: Checkout, dirty: bool = False) -> str:
    return ensure_environment(checkout.request(dirty=dirty, plan_only=True)).reference.key


@pytest.mark.parametrize(
    "name", ["docs/page.md", "examples/mine.toml", "components/trainer/README.md", "components/launcher/src/a.py"]
)
def test_a_commit_of_what_does_not_go_into_the_pex_keeps_the_key(name: str, checkout: Checkout) -> None:
    before = key_of(checkout)
    checkout.commit(name, "changed")
    assert key_of(checkout) == before


@pytest.mark.parametrize(
    "name",
    ["components/trainer/src/trainer.py", "components/contracts/src/a.py", "trainers/full/src/b.py", "3rdparty/a.lock",
     "pants.toml", "pants", ".pants.bootstrap", "BUILD", "build-support/macros.py", "components/trainer/BUILD"],
)  # fmt: skip
def test_a_commit_of_what_goes_into_the_pex_gives_another_key(name: str, checkout: Checkout) -> None:
    before = key_of(checkout)
    checkout.commit(name, "changed")
    assert key_of(checkout) != before


def test_a_mode_alone_gives_another_key(checkout: Checkout) -> None:
    before = key_of(checkout)
    (checkout.root / "components/trainer/src/trainer.py").chmod(0o755)
    checkout.git("commit", "--quiet", "-am", "mode")
    assert key_of(checkout) != before


def test_a_change_taken_back_gives_the_first_key_again(checkout: Checkout) -> None:
    before = key_of(checkout)
    checkout.commit("components/trainer/src/trainer.py", "changed")
    checkout.git("revert", "--no-edit", "HEAD")
    assert key_of(checkout) == before


def test_a_dirty_tree_has_a_key_for_each_state_and_none_is_the_commits(checkout: Checkout) -> None:
    keys = [key_of(checkout)]
    checkout.write("components/trainer/src/trainer.py", "one")
    keys.append(key_of(checkout, dirty=True))
    checkout.write("components/trainer/src/trainer.py", "two")
    keys.append(key_of(checkout, dirty=True))
    checkout.write("components/trainer/src/new.py", "untracked")
    keys.append(key_of(checkout, dirty=True))
    (checkout.root / "components/trainer/src/trainer.py").unlink()
    keys.append(key_of(checkout, dirty=True))
    assert len(set(keys)) == len(keys)


def test_a_dirty_experiment_keeps_the_key(checkout: Checkout) -> None:
    before = key_of(checkout)
    checkout.write("examples/mine.toml", "seed = 1")
    assert key_of(checkout, dirty=True) == before


def test_the_key_does_not_depend_on_where_the_checkout_lies(checkout: Checkout, tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "--quiet", str(checkout.root), str(tmp_path / "clone")], check=True)
    clone = Checkout(tmp_path / "clone", tmp_path / "other-home", checkout.seen)
    assert key_of(clone) == key_of(checkout)


def test_the_users_own_resolves_give_another_key_and_lock_digest(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout.commit("3rdparty/b.lock", "torch==2 --hash=sha256:1\n")
    plain = ensure_environment(checkout.request(plan_only=True)).reference
    monkeypatch.setenv("PANTS_PYTHON_RESOLVES", "+{'train-cpu': '3rdparty/b.lock'}")
    other = ensure_environment(checkout.request(plan_only=True)).reference
    assert other.key != plain.key
    assert other.lock_digest != plain.lock_digest


def test_a_variable_of_a_git_hook_does_not_lead_to_another_repository(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = key_of(checkout)
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert ensure_environment(checkout.request(plan_only=True, commit=_head(checkout))).reference.key == before


def _head(checkout: Checkout) -> str:
    return (checkout.root / ".git/refs/heads/main").read_text().strip()


def test_a_commit_that_is_not_there_is_named(checkout: Checkout) -> None:
    with pytest.raises(NotFound, match="0" * 40):
        ensure_environment(checkout.request(commit="0" * 40))


def test_planning_writes_nothing_and_calls_no_build(checkout: Checkout) -> None:
    before = sorted(path for path in checkout.root.rglob("*"))
    index = (checkout.root / ".git/index").stat().st_mtime_ns
    planned = ensure_environment(checkout.request(plan_only=True))
    assert not planned.built
    assert planned.reference.sha256 is None
    assert not checkout.home.exists()
    assert sorted(path for path in checkout.root.rglob("*")) == before
    assert (checkout.root / ".git/index").stat().st_mtime_ns == index
    assert checkout.calls() == []
