"""`poetry.lock` of Poetry 1 and 2: real ones of one project, and older formats."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.env_builder_foreign.machine import FIXTURES, pins_of, read, read_text, reasons
from tunewright.contracts.errors import InvalidExperiment, UsageError
from tunewright.env_builder.foreign.poetry_constraints import allows

NEW = FIXTURES / "poetry-2/poetry.lock"
OLD = FIXTURES / "poetry-1/poetry.lock"
DIGEST = "b" * 64
PINS = ["click==8.5.1", "idna==3.20", "packaging==26.3", "six==1.17.0"]


@pytest.mark.parametrize("path", [NEW, OLD], ids=["Poetry 2", "Poetry 1 with its pyproject.toml"])
def test_both_formats_give_the_same_pins(path: Path) -> None:
    lock = read(path)
    assert pins_of(lock) == PINS
    assert [len(pin.hashes) for pin in lock.pins] == [2, 2, 2, 2]
    assert lock.requires_python == "^3.10"
    assert lock.notes == ()


@pytest.mark.parametrize("path", [NEW, OLD], ids=["Poetry 2", "Poetry 1"])
def test_what_stays_behind_has_its_reason(path: Path) -> None:
    left = reasons(read(path))
    assert left["gitdep 0.3.0"].startswith("from git: https://example.invalid/gitdep.git@")
    assert {"colorama 0.4.6", "iniconfig 2.3.1", "group dev", "extra pretty"} <= set(left)
    assert any(name.startswith("typing-extensions") for name in left)
    assert "index https://example.invalid/simple" in left


@pytest.mark.parametrize("path", [NEW, OLD], ids=["Poetry 2", "Poetry 1"])
def test_groups_and_extras_that_are_asked_for_come_along(path: Path) -> None:
    lock = read(path, extras=("pretty",), groups=("dev",))
    assert set(pins_of(lock)) == {*PINS, "iniconfig==2.3.1", "pygments==2.21.0"}


def test_poetry_1_without_its_pyproject_takes_what_nothing_else_needs_and_says_so(tmp_path: Path) -> None:
    shutil.copy(OLD, tmp_path / "poetry.lock")
    lock = read(tmp_path / "poetry.lock")
    assert {*PINS, "iniconfig==2.3.1"} <= set(pins_of(lock))
    assert "pygments 2.21.0" in reasons(lock)  # optional
    assert "no pyproject.toml lies beside it" in lock.notes[0]


def test_a_group_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--group docs: .*has no such group; it has: dev"):
        read(NEW, groups=("docs",))


def test_the_oldest_format_has_its_hashes_at_the_end_and_its_groups_as_categories(tmp_path: Path) -> None:
    text = f"""
[[package]]
category = "main"
name = "idna"
version = "3.7"
optional = false
python-versions = ">=3.5"

[[package]]
category = "main"
marker = "sys_platform == \\"win32\\""
name = "colorama"
version = "0.4.6"
optional = false
python-versions = "*"

[[package]]
category = "dev"
name = "iniconfig"
version = "2.0.0"
optional = false
python-versions = ">=3.7"

[metadata]
lock-version = "1.1"
python-versions = "^3.8"
content-hash = "0"

[metadata.files]
idna = [
    {{file = "idna-3.7-py3-none-any.whl", hash = "sha256:{DIGEST}"}},
    {{file = "idna-3.6-py3-none-any.whl", hash = "sha256:{"c" * 64}"}},
]
colorama = []
iniconfig = []
"""
    lock = read_text(tmp_path, "poetry.lock", text)
    assert pins_of(lock) == ["idna==3.7"]
    assert lock.pins[0].hashes == (f"sha256:{DIGEST}",)
    left = reasons(lock)
    assert "win32" in left["colorama 0.4.6"]
    assert "group dev" in left["iniconfig 2.0.0"]


def test_a_marker_for_each_group_is_that_of_the_groups_asked_for(tmp_path: Path) -> None:
    text = """
[[package]]
name = "idna"
version = "3.7"
optional = false
python-versions = "*"
groups = ["main", "dev"]
markers = {main = "sys_platform == \\"win32\\"", dev = "sys_platform == \\"linux\\""}
files = []

[metadata]
lock-version = "2.1"
python-versions = ">=3.8"
content-hash = "0"
"""
    assert pins_of(read_text(tmp_path, "poetry.lock", text)) == []
    assert pins_of(read(tmp_path / "poetry.lock", groups=("dev",))) == ["idna==3.7"]


def test_of_two_versions_for_different_pythons_the_fitting_one_is_taken(tmp_path: Path) -> None:
    one = '[[package]]\nname = "numpy"\nversion = "{}"\noptional = false\npython-versions = "{}"\nfiles = []\n'
    end = '[metadata]\nlock-version = "2.1"\npython-versions = "^3.9"\ncontent-hash = "0"\n'
    text = one.format("1.24.0", "<3.11") + one.format("1.26.0", ">=3.11,<3.13") + end
    lock = read_text(tmp_path, "poetry.lock", text)
    assert pins_of(lock) == ["numpy==1.26.0"]
    assert "needs Python <3.11" in reasons(lock)["numpy 1.24.0"]


@pytest.mark.parametrize(
    ("constraint", "version", "is_allowed"),
    [
        ("^3.8", "3.11.7", True),
        ("^3.8", "4.0", False),
        ("^0.2.3", "0.3.0", False),
        ("^0.0.3", "0.0.4", False),
        ("~3.8", "3.9.0", False),
        ("~3", "3.9.0", True),
        ("~1.2.3", "1.2.9", True),
        ("~=1.2", "1.9", True),
        (">=3.8,<3.12", "3.11.7", True),
        (">=3.8 <3.12", "3.12.1", False),
        ("~2.7 || ^3.10", "3.11.7", True),
        ("~2.7 || ^3.12", "3.11.7", False),
        ("1.5", "1.5", True),
        ("1.5", "1.6", False),
        ("*", "0.1", True),
        ("!=3.0.*,>=2.7", "3.11.7", True),
        ("what is this", "1", True),
    ],
)
def test_versions_as_poetry_writes_them(constraint: str, version: str, is_allowed: bool) -> None:
    assert allows(constraint, version) is is_allowed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[metadata]\nlock-version = "3.0"\n', "lock version 3.0 is newer than is known here (up to 2.1)"),
        ('[metadata]\nlock-version = "two"\n', "lock version `two` is none that is known"),
        ('[[package]]\nname = "x"\n[metadata]\nlock-version = "2.1"\n', "package.0.version: field required"),
    ],
)
def test_a_broken_lock_is_one_clear_error(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidExperiment) as caught:
        read_text(tmp_path, "poetry.lock", text)
    assert said in caught.value.message
