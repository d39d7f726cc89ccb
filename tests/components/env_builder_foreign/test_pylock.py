"""`pylock.toml`: a real one made by uv, and the markers of PEP 751 that only locks have."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.env_builder_foreign.machine import FIXTURES, pins_of, read, read_text, reasons
from tunewright.contracts.errors import InvalidExperiment, UsageError

PYLOCK = FIXTURES / "uv-export/pylock.toml"
MARKED = """
lock-version = "1.0"
created-by = "tests"
extras = ["pretty"]
dependency-groups = ["dev", "base"]
default-groups = ["base"]
[[packages]]
name = "pygments"
version = "2"
marker = "'pretty' in extras"
[[packages]]
name = "iniconfig"
version = "2"
marker = "'dev' in dependency_groups"
[[packages]]
name = "idna"
version = "3"
marker = "'base' in dependency_groups"
"""


def test_it_gives_the_same_pins_as_the_uv_lock_it_was_exported_from() -> None:
    of_uv = {pin.name: pin.hashes for pin in read(FIXTURES / "uv/uv.lock").pins}
    assert {pin.name: pin.hashes for pin in read(PYLOCK).pins} == of_uv


def test_what_stays_behind_has_its_reason() -> None:
    left = reasons(read(PYLOCK))
    assert left["gitdep 0.3.0"].startswith("from git: https://example.invalid/gitdep.git@")
    assert "win32" in left["colorama 0.4.6"]
    assert "packages/tool" in left["demo-tool"]


def test_extras_and_groups_are_chosen_by_markers_of_their_own(tmp_path: Path) -> None:
    assert pins_of(read_text(tmp_path, "pylock.toml", MARKED)) == ["idna==3"]
    assert pins_of(read(tmp_path / "pylock.toml", ("pretty",), ("dev",))) == ["idna==3", "iniconfig==2", "pygments==2"]


def test_an_extra_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it has: pretty"):
        read_text(tmp_path, "pylock.toml", MARKED, extras=("nice",))


def test_an_archive_and_another_python_stay_behind(tmp_path: Path) -> None:
    text = (
        'lock-version = "1.0"\n[[packages]]\nname = "a"\nversion = "1"\n'
        'archive = { url = "https://me:pw@example.invalid/a.zip" }\n'
        '[[packages]]\nname = "b"\nversion = "1"\nrequires-python = ">=3.12"\n'
    )
    left = reasons(read_text(tmp_path, "pylock.toml", text))
    assert left == {"a 1": "from an archive: https://example.invalid/a.zip", "b 1": "needs Python >=3.12"}


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidExperiment, match=r"lock version 2\.0 is newer"):
        read_text(tmp_path, "pylock.toml", 'lock-version = "2.0"\npackages = []\n')
