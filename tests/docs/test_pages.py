"""The pages say what is so: links lead somewhere, code parses, examples load, commands are described."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import click
import pytest

from docs.pages import ROOT, Code, code_of, pages, without_code
from tunewright.contracts.command_line import LazyGroup
from tunewright.contracts.experiment_file import load_experiment

BLOCKS = [code for page in pages() for code in code_of(page)]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def heading_anchor(line: str) -> str:
    """A heading's anchor, as code hosts make it."""
    words = re.sub(r"[^\w\- ]", "", line.lstrip("#").strip().lower())
    return words.replace(" ", "-")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(without_code(page.read_text())):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        anchors = (
            [heading_anchor(line) for line in target.read_text().splitlines() if line.startswith("#")] if anchor else []
        )
        if not target.exists() or (anchor and anchor not in anchors):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("code", [code for code in BLOCKS if code.language == "python"], ids=str)
def test_python_in_the_pages_compiles(code: Code) -> None:
    compile(code.text, str(code), "exec")


@pytest.mark.parametrize("code", [code for code in BLOCKS if code.language == "toml"], ids=str)
def test_toml_in_the_pages_parses(code: Code) -> None:
    assert tomllib.loads(code.text) != {}


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda path: path.name)
def test_an_example_loads(path: Path) -> None:
    loaded = load_experiment(path)
    assert loaded.spec.name


def whole_experiments() -> list[Code]:
    """Blocks that are an experiment from its first line to its last, not a table of one."""
    blocks = [code for code in BLOCKS if code.language == "toml"]
    return [code for code in blocks if {"schema", "model", "dataset"} <= tomllib.loads(code.text).keys()]


@pytest.mark.parametrize("code", whole_experiments(), ids=str)
def test_an_experiment_in_the_pages_is_right(code: Code, tmp_path: Path) -> None:
    path = tmp_path / "experiment.toml"
    path.write_text(code.text)
    assert load_experiment(path).spec.name


def test_there_are_examples_and_the_readmes_experiment_is_one() -> None:
    assert {"quickstart.toml", "lora.toml", "qlora.toml"} <= {path.name for path in (ROOT / "examples").glob("*.toml")}
    from tunewright.contracts.experiment_file import parse_experiment

    blocks = [code for code in BLOCKS if code.page == ROOT / "README.md" and code.language == "toml"]
    whole = [tomllib.loads(code.text) for code in blocks if "[model]" in code.text]
    assert [parse_experiment(document, "README.md").training.variant for document in whole] == ["lora"]


def command_lines() -> list[tuple[str, LazyGroup]]:
    """The command line of each component that can be imported here, with the component's folder."""
    found = []
    for path in sorted(ROOT.glob("components/*/pyproject.toml")):
        for entry in tomllib.loads(path.read_text())["project"].get("scripts", {}).values():
            try:
                # Where a component starts is not always where its command line is.
                module = importlib.import_module(entry.partition(":")[0].rpartition(".")[0] + ".cli")
            except ModuleNotFoundError:
                continue  # the trainer's sources are not among the light tests' files
            groups = [value for value in vars(module).values() if isinstance(value, LazyGroup)]
            found += [(path.parent.name, group) for group in groups]
    return found


def test_the_command_lines_of_the_light_components_are_found() -> None:
    assert {"env-builder", "launcher", "dataset-cacher"} <= {name for name, _ in command_lines()}


@pytest.mark.parametrize(("component", "group"), command_lines(), ids=[name for name, _ in command_lines()])
def test_every_command_is_described_in_the_components_readme(component: str, group: LazyGroup) -> None:
    readme = (ROOT / "components" / component / "README.md").read_text()
    names = group.list_commands(click.Context(group))
    assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b", readme)] == []


@pytest.mark.parametrize(("component", "group"), command_lines(), ids=[name for name, _ in command_lines()])
def test_every_command_has_its_help(component: str, group: LazyGroup) -> None:
    context = click.Context(group, info_name=component)
    commands = {name: group.get_command(context, name) for name in group.list_commands(context)}
    assert [name for name, command in commands.items() if command is None or not command.help] == []


@pytest.mark.parametrize("folder", ["components", "plugins", "trainers"])
def test_every_part_has_a_readme_and_a_changelog_of_its_version(folder: str) -> None:
    parts = [path.parent for path in ROOT.glob(f"{folder}/*/pyproject.toml")]
    assert parts
    for part in parts:
        version = tomllib.loads((part / "pyproject.toml").read_text())["project"]["version"]
        assert (part / "README.md").is_file(), part
        assert f"## {version}" in (part / "CHANGELOG.md").read_text().replace("[", "").replace("]", ""), part
