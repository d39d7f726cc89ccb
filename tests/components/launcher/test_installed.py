"""What is installed and what the machine can do: `plugins`, `doctor`, `schema`, and the command line itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.launcher.conftest import install
from components.launcher.project import Project
from tunewright.contracts.experiment import ExperimentSpec
from tunewright.contracts.plugins import PluginHost
from tunewright.launcher.cli import launcher
from tunewright.launcher.commands.schema import experiment_schema

COMMANDS = [
    "launch", "sweep", "plan", "list", "status", "wait", "logs", "stop", "events", "verify", "reproduce", "plugins",
    "doctor", "schema",
]  # fmt: skip


def test_plugins_lists_a_strangers_cluster_with_what_it_can_do_and_its_options(project: Project) -> None:
    document = project.launcher("plugins", "--json").document
    plugin = next(plugin for plugin in document["plugins"] if plugin["name"] == "stranger")
    assert (plugin["distribution"], plugin["version"], plugin["error"]) == ("stranger", "1.0", "")
    assert plugin["module"] == "components.launcher.stranger" and "tunewright_preflight" in plugin["hooks"]
    yard = next(cluster for cluster in document["clusters"] if cluster["name"] == "yard")
    assert yard["capabilities"] == ["pex"]
    assert yard["options"][1] == {
        "name": "colour",
        "default": "green",
        "required": False,
        "description": "Of the yard's own words.",
    }
    assert "plain" in [variant["name"] for variant in document["variants"]]
    text = project.launcher("plugins").out
    assert "stranger 1.0" in text and 'colour = "green"  Of the yard\'s own words.' in text


def test_a_broken_plugin_is_named_with_its_cause_and_harms_no_other(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(install(tmp_path / "broken", "wreck", "no_such_module_anywhere"))
    document = project.launcher("plugins", "--json").document
    wreck = next(plugin for plugin in document["plugins"] if plugin["name"] == "wreck")
    assert "no_such_module_anywhere" in wreck["error"]
    assert "BROKEN: ModuleNotFoundError" in project.launcher("plugins").out
    assert project.launcher("doctor", "--json").document["broken_plugins"][0]["name"] == "wreck"
    project.launcher("launch", "count.toml")


def test_two_plugins_with_one_name_are_an_error_naming_both(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = install(tmp_path / "other", "stranger", "json.tool", version="2.0")
    (other / "stranger-2.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: imposter\nVersion: 2.0\n")
    monkeypatch.syspath_prepend(other)
    answer = project.launcher("launch", "count.toml", expect=78)
    assert "stranger 1.0" in answer.err and "imposter 2.0" in answer.err


def test_doctor_tells_what_the_machine_has_and_which_clusters_can_be_used(project: Project) -> None:
    document = project.launcher("doctor", "--json").document
    assert document["machine"]["home"] == str(project.home)
    assert document["machine"]["cpus"] >= 1 and document["machine"]["memory_gib"] > 0
    clusters = {cluster["name"]: cluster for cluster in document["clusters"]}
    assert clusters["yard"] == {"name": "yard", "usable": True, "findings": []}
    assert clusters["clumsy"]["usable"] is False and "stumbled" in clusters["clumsy"]["findings"][0]
    text = project.launcher("doctor").out
    assert "cluster yard: usable" in text and "cluster clumsy: NOT usable" in text


def test_the_schema_describes_every_field_and_every_plugins_options(project: Project) -> None:
    document = project.launcher("schema").document
    fields = {field.alias or name for name, field in ExperimentSpec.model_fields.items()}
    assert set(document["properties"]) == {*fields, "stages"}
    assert document["$defs"]["ClusterSpec"]["properties"]["nodes"]["description"] == "Machines."
    yard, plain = (document["$defs"][name] for name in ("cluster-options-yard", "training-options-plain"))
    assert yard["properties"]["colour"]["description"] == "Of the yard's own words."
    assert plain["properties"]["exit_code"]["default"] == 0


def test_every_reference_of_the_schema_leads_somewhere() -> None:
    document = experiment_schema(PluginHost.discover())
    references = {part.split('"')[0] for part in json.dumps(document).split('"$ref": "')[1:]}
    assert references
    for reference in references:
        place = document
        for key in reference.removeprefix("#/").split("/"):
            place = place[key]


def test_the_commands_are_those_that_are_promised(project: Project) -> None:
    assert list(launcher.commands or launcher.list_commands(None)) == COMMANDS  # type: ignore[arg-type]  # needs no context
    text = project.launcher("--help").out
    assert all(f"\n  {command} " in text for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_and_takes_json(command: str, project: Project) -> None:
    text = project.launcher(command, "--help").out
    assert "--json" in text and "Usage: launcher " + command in text


def test_help_and_plan_import_nothing_heavy(project: Project) -> None:
    heavy = ["torch", "rich", "numpy", "pyarrow", "git", "transformers", "asyncio", "http"]
    report = f"sys.stderr.write('HEAVY ' + str([name for name in {heavy} if name in sys.modules]))"
    watch = f"import atexit, sys\natexit.register(lambda: {report})"
    for arguments in (("--help",), ("plan", "count.toml"), ("list",)):
        process = project.start(*arguments, before=watch)
        _, err = process.communicate(timeout=50)
        assert process.returncode == 0 and err.endswith("HEAVY []"), err


def test_shell_completion_knows_commands_and_runs(project: Project) -> None:
    project.launcher("launch", "count.toml", "--name", "my-run")
    for words, expected in (("launcher st", "status"), ("launcher status my", "my-run")):
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1), "_LAUNCHER_COMPLETE": "bash_complete",
        }  # fmt: skip
        command = [sys.executable, "-m", "tunewright.launcher.cli"]
        result = subprocess.run(command, env=environment, cwd=project.root, capture_output=True, text=True, check=False)
        assert f"plain,{expected}" in result.stdout.splitlines(), result
