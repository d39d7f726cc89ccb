"""The user's configuration: profiles below `--set` and above the file, defaults, and every problem at once."""

from __future__ import annotations

import json
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from components.launcher.project import EXPERIMENT, Project
from tunewright.launcher.user_config import toml_value

CONFIG = """\
[defaults]
cluster = "blue"

[profiles.blue]
name = "yard"
max_retries = 0
[profiles.blue.options]
colour = "blue"
[profiles.blue.environment]
WHO = "the profile"
GREETING = "from the profile"

[profiles.gated]
name = "yard"
options = {gate = "/no/gate"}

[prices.blue]
currency = "EUR"
per_node_hour = 1.5
"""


@pytest.fixture
def configured(project: Project) -> Project:
    """A project, and a user with a configuration."""
    write_config(project, CONFIG)
    return project


def write_config(project: Project, text: str) -> Path:
    path = project.root.parent / "config" / "tunewright" / "config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def cluster_of(project: Project, *arguments: str, file: str = "count.toml") -> Any:
    return project.launcher("plan", file, *arguments, "--json").document["job"]["experiment"]["cluster"]


def test_a_profile_is_above_the_file_and_below_set(configured: Project) -> None:
    cluster = cluster_of(configured, "--cluster", "blue", "--set", "cluster.environment.WHO=me")
    assert (cluster["name"], cluster["options"]) == ("yard", {"gate": "", "colour": "blue"})
    assert cluster["environment"] == {"GREETING": "from the profile", "WHO": "me"}
    assert (
        cluster_of(configured, "--cluster", "blue", "--set", "cluster.options.colour=red")["options"]["colour"] == "red"
    )


def test_the_run_holds_the_result_and_needs_the_configuration_no_more(configured: Project) -> None:
    configured.launcher("launch", "count.toml", "--cluster", "blue")
    assert configured.json("count", "resolved.json")["cluster"]["options"]["colour"] == "blue"
    write_config(configured, "")
    configured.launcher("reproduce", "count")
    assert configured.json("count-reproduced", "resolved.json")["cluster"]["options"]["colour"] == "blue"


def test_diff_shows_what_a_profile_changes(configured: Project) -> None:
    configured.launcher("launch", "count.toml")
    assert configured.launcher("plan", "count.toml", "--name", "count", "--diff", "count").out == ""
    out = configured.launcher("plan", "count.toml", "--name", "count", "--cluster", "gated", "--diff", "count").out
    assert "--- count/plan/gate\n+++ now/plan/gate\n" in out and "+/no/gate" in out


def test_a_profile_is_chosen_by_its_name_in_the_file_and_by_set(configured: Project) -> None:
    text = EXPERIMENT.replace('name = "yard"', 'name = "blue"') + '[cluster.options]\ngate = "/of/the/file"\n'
    (configured.root / "blue.toml").write_text(text)
    configured.git("add", "--all")
    configured.git("commit", "--quiet", "-m", "by a profile")
    assert cluster_of(configured, file="blue.toml")["options"] == {"gate": "/of/the/file", "colour": "blue"}
    by_set = cluster_of(configured, "--set", "cluster.name=gated", file="blue.toml")
    assert by_set["options"] == {"gate": "/no/gate", "colour": "green"}


def test_the_default_cluster_is_for_experiments_that_name_none(configured: Project) -> None:
    assert cluster_of(configured)["options"]["colour"] == "green"
    (configured.root / "none.toml").write_text(EXPERIMENT.replace('name = "yard"', ""))
    configured.git("add", "--all")
    configured.git("commit", "--quiet", "-m", "names no cluster")
    assert cluster_of(configured, file="none.toml")["options"]["colour"] == "blue"
    assert cluster_of(configured, "--cluster", "gated", file="none.toml")["options"]["gate"] == "/no/gate"
    write_config(configured, '[defaults]\ncluster = "yard"\n')
    assert cluster_of(configured, file="none.toml")["name"] == "yard"


def test_each_stage_may_have_a_profile_of_its_own(configured: Project) -> None:
    stages = '[[stages]]\nname = "one"\n[[stages]]\nname = "two"\n[stages.cluster]\nname = "blue"\n'
    (configured.root / "stages.toml").write_text(EXPERIMENT + stages)
    configured.git("add", "--all")
    configured.git("commit", "--quiet", "-m", "stages")
    document = configured.launcher("plan", "stages.toml", "--json").document
    colours = [one["job"]["experiment"]["cluster"]["options"]["colour"] for one in document["stages"]]
    assert colours == ["green", "blue"]


def test_every_problem_is_told_at_once_with_the_path_of_the_configuration(project: Project) -> None:
    path = write_config(project, """\
[defualts]
[profiles.yard]
name = "yard"
[profiles.wrong]
name = "yrad"
[profiles.colourful]
name = "yard"
nodes = 0
options = {color = "blue"}
[profiles.nameless]
nodes = 2
[prices.yrad]
currency = "USD"
[prices.colourful]
currency = "USD"
per_hour = 3.0
""")  # fmt: skip
    error = project.launcher("plan", "count.toml", expect=78).err
    assert f"{path}: 9 problems" in error
    for words in (
        "defualts: unknown key", "did you mean `defaults`",
        "per_hour: unknown key\n    hint: did you mean `per_",
        "profiles.yard: is also the name of a cluster", "stranger",
        "profiles.wrong.name: must name a cluster, got 'yrad'", "did you mean `yard`", "profiles.colourful.nodes",
        "profiles.colourful.options.color: unknown key", "profiles.nameless.name: is missing",
        "prices.yrad", "prices.colourful.per_hour: unknown key",
    ):  # fmt: skip
        assert words in error, (words, error)


def test_a_configuration_that_is_no_toml_or_not_there_is_told(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(project, "[profiles")
    assert "is not TOML" in project.launcher("plan", "count.toml", expect=78).err
    monkeypatch.setenv("TUNEWRIGHT_CONFIG", str(project.root.parent / "none.toml"))
    assert "TUNEWRIGHT_CONFIG" in project.launcher("plan", "count.toml", expect=66).err
    document = project.launcher("doctor", "--json").document
    assert "no such file" in document["configuration"]["error"]
    other = project.root.parent / "none.toml"
    other.write_text('[profiles.mine]\nname = "yard"\n')
    assert cluster_of(project, "--cluster", "mine")["name"] == "yard"


def test_plugins_and_doctor_show_the_profiles(configured: Project) -> None:
    for command in ("plugins", "doctor"):
        document = configured.launcher(command, "--json").document["configuration"]
        assert [(one["name"], one["cluster"]) for one in document["profiles"]] == [("blue", "yard"), ("gated", "yard")]
        out = configured.launcher(command).out
        assert "profile blue: yard" in out and "default cluster: blue" in out and "1.5 EUR for a node" in out


@pytest.mark.parametrize("value", [
    "text", "", 'with "quotes", \\ and\nlines\x7f', "ünïcode 🎉", 1, -2.5, 1e300, True, [1, 2], [], {},
    {"a.b": {"c": ["d"]}}, date(2026, 11, 21), [{"x": 1}, {"y": [True]}],
])  # fmt: skip
def test_every_value_survives_as_toml_on_one_line(value: Any) -> None:
    line = f"value = {toml_value(value)}"
    assert "\n" not in line
    assert tomllib.loads(line)["value"] == value


def test_a_name_that_nothing_is_called_by_is_told_as_before(configured: Project) -> None:
    error = configured.launcher("plan", "count.toml", "--cluster", "yrad", expect=78).err
    assert "cluster.name" in error and "`yard`" in error
    assert json.dumps("yrad") in error or "`yrad`" in error
