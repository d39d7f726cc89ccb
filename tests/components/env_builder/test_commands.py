"""The env-builder's command line: documents on stdout, words on stderr, the promised exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from servers.docker_engine import need_docker

from components.env_builder.checkout import Checkout

EXPERIMENT = """
schema = 1
name = "mine"
{environment}
[model]
name_or_path = "model"
[dataset]
[[dataset.mix]]
source = "rows.jsonl"
"""


def test_build_prints_the_reference_and_the_second_says_that_nothing_is_built(checkout: Checkout) -> None:
    first = checkout.call("build", "--json")
    second = checkout.call("build", "--json")
    document = json.loads(first.stdout)
    assert document.pop("built") is True
    assert json.loads(second.stdout) == {**document, "built": False}
    assert "nothing to build" in second.stderr
    assert len(checkout.calls()) == 1


def test_build_takes_an_experiment_and_the_target(checkout: Checkout) -> None:
    checkout.commit("mine.toml", EXPERIMENT.format(environment=""))
    path = checkout.call("build", "mine.toml").stdout.strip()
    assert (Path(path) / "__main__.py").is_file()
    assert checkout.call("build", "components/trainer:trainer").stdout.strip() == path


@pytest.mark.parametrize(("command", "expect"), [("build", 78), ("check", 77)])
def test_an_image_that_is_nowhere_is_refused_by_its_field(command: str, expect: int, checkout: Checkout) -> None:
    environment = '[environment]\nkind = "image"\nimage = "images/trainer-cpu"'
    checkout.commit("mine.toml", EXPERIMENT.format(environment=environment))
    result = checkout.call(command, "mine.toml", expect=expect)
    said = result.stdout + result.stderr
    assert "environment.image" in said
    assert "`images/trainer-cpu`" in said
    assert checkout.calls() == []


def test_a_dirty_tree_is_refused_and_built_when_allowed(checkout: Checkout) -> None:
    checkout.write("components/trainer/src/trainer.py", "dirty")
    refused = checkout.call("build", expect=77)
    assert "components/trainer/src/trainer.py" in refused.stderr
    assert checkout.calls() == []
    path = checkout.call("build", "--allow-dirty").stdout.strip()
    assert (Path(path) / "trainer.py").read_text() == "dirty"


def test_a_broken_build_ends_with_69_and_shows_the_end_of_the_log(checkout: Checkout) -> None:
    checkout.commit("components/trainer/broken", "")
    result = checkout.call("build", expect=69)
    assert "error line 29" in result.stderr
    assert ".log" in result.stderr
    assert result.stdout == ""


def test_verify_reads_it_by_key_beginning_and_path(checkout: Checkout) -> None:
    document = json.loads(checkout.call("build", "--json").stdout)
    for reference in (
        document["key"],
        document["key"][:8],
        document["reference"],
        str(Path(document["reference"]).parent),
    ):
        verified = json.loads(checkout.call("verify", reference, "--json").stdout)
        assert (verified["verified"], verified["sha256"]) == (True, document["sha256"])


def test_verify_names_a_changed_byte_and_ends_with_65(checkout: Checkout) -> None:
    document = json.loads(checkout.call("build", "--json").stdout)
    file = Path(document["reference"]) / "trainer.py"
    data = bytearray(file.read_bytes())
    data[3] ^= 1
    file.write_bytes(data)
    result = checkout.call("verify", document["key"], expect=65)
    assert str(file) in result.stderr
    assert "__main__.py" not in result.stderr


@pytest.mark.parametrize("damage", ["added", "removed", "mode"])
def test_verify_finds_what_was_added_removed_or_made_executable(damage: str, checkout: Checkout) -> None:
    document = json.loads(checkout.call("build", "--json").stdout)
    file = Path(document["reference"]) / "trainer.py"
    if damage == "added":
        (file.parent / "stranger.py").write_text("")
    elif damage == "removed":
        file.unlink()
    else:
        file.chmod(0o755)
    checkout.call("verify", document["key"], expect=65)


def test_verify_of_what_is_not_there_ends_with_66(checkout: Checkout) -> None:
    need_docker()  # what is no environment of ours may be an image
    checkout.call("verify", "0123", expect=66)
    key = json.loads(checkout.call("build", "--json").stdout)["key"]
    (checkout.home / "environments" / key / "environment.json").unlink()
    checkout.call("verify", key, expect=66)


def test_list_shows_each_whole_environment_once(checkout: Checkout) -> None:
    assert json.loads(checkout.call("list", "--json").stdout) == []
    first = json.loads(checkout.call("build", "--json").stdout)
    checkout.commit("components/trainer/src/trainer.py", "other")
    second = json.loads(checkout.call("build", "--json").stdout)
    (checkout.home / "environments" / ("0" * 64)).mkdir()
    listed = json.loads(checkout.call("list", "--json").stdout)
    assert [one["key"] for one in listed] == [first["key"], second["key"]]
    assert len(checkout.call("list").stdout.splitlines()) == 2


def test_check_says_that_all_is_well_and_builds_nothing(checkout: Checkout) -> None:
    result = checkout.call("check", "--json")
    assert [one for one in json.loads(result.stdout)["findings"] if one["severity"] == "error"] == []
    assert not checkout.home.exists()


def test_check_names_everything_that_is_missing_at_once(checkout: Checkout, tmp_path: Path) -> None:
    checkout.git("rm", "-q", "pants", "pants.toml")
    checkout.git("commit", "--quiet", "-m", "bare")
    (tmp_path / "programs").mkdir()
    result = checkout.call("check", "--json", expect=77, PATH=str(tmp_path / "programs"))
    codes = {one["code"] for one in json.loads(result.stdout)["findings"]}
    assert codes >= {"environment-no-trainer-sources", "environment-no-pants", "environment-no-git"}


def test_a_folder_without_a_commit_is_told_in_words(checkout: Checkout, tmp_path: Path) -> None:
    bare = Checkout(tmp_path / "plain", checkout.home, checkout.seen)
    bare.root.mkdir()
    result = bare.call("build", expect=77)
    assert "not-a-git-checkout" in result.stderr


@pytest.mark.parametrize(
    "arguments", [("bild",), ("build", "--fast"), ("verify",), ("build", "components/launcher"), ("list", "what")]
)
def test_a_wrong_command_line_ends_with_64(arguments: tuple[str, ...], checkout: Checkout) -> None:
    checkout.call(*arguments, expect=64)


def test_help_names_every_command_and_version_the_distribution(checkout: Checkout) -> None:
    text = checkout.call("--help").stdout
    assert [name for name in ("check", "build", "verify", "list") if f"  {name} " not in text] == []
    assert re.match(r"tunewright-env-builder \d+\.\d+\.\d+", checkout.call("--version").stdout)
