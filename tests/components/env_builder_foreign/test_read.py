"""Which format a file has, and files that have none."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.env_builder_foreign.machine import FIXTURES, LINUX, pins_of, read, read_text
from tunewright.contracts.errors import InvalidExperiment, NotFound, TunewrightError, UsageError
from tunewright.env_builder.foreign.key import key_of, requirements_text
from tunewright.env_builder.foreign.read import read_lock
from tunewright.env_builder.foreign.target import Selection, Target

SAME = ("uv/uv.lock", "uv-export/pylock.toml", "uv-export/requirements.txt", "pip-compile/requirements.txt",
        "poetry-1/poetry.lock", "poetry-2/poetry.lock")  # fmt: skip


@pytest.mark.parametrize(
    ("fixture", "name", "kind"),
    [
        ("uv/uv.lock", "uv.lock", "uv.lock"),
        ("uv/uv.lock", "theirs.lock", "uv.lock"),
        ("uv-export/pylock.toml", "pylock.gpu.toml", "pylock.toml"),
        ("poetry-2/poetry.lock", "copy.toml", "poetry.lock"),
        ("conda/conda-lock.yml", "locked.yaml", "conda-lock.yml"),
        ("conda/environment.yml", "env.yaml", "environment.yml"),
        ("pip-compile/requirements.txt", "requirements-cpu.in", "requirements.txt"),
        ("pip-compile/requirements.txt", "tools.lock", "requirements.txt"),
    ],
)
def test_the_format_is_told_by_name_and_content(fixture: str, name: str, kind: str, tmp_path: Path) -> None:
    assert read_text(tmp_path, name, (FIXTURES / fixture).read_text()).kind == kind


def test_a_format_that_is_given_counts_for_any_name(tmp_path: Path) -> None:
    (tmp_path / "packages").write_text("idna==3.7\n")
    lock = read_lock(tmp_path / "packages", Selection(), LINUX, "requirements.txt")
    assert pins_of(lock) == ["idna==3.7"]


def test_one_project_in_every_format_has_one_key() -> None:
    keys = {key_of(read(FIXTURES / name).pins) for name in SAME}
    assert len(keys) == 1


def test_a_hash_or_a_version_more_or_less_gives_another_key() -> None:
    pins = read(FIXTURES / "uv/uv.lock").pins
    other_hash = pins[0].model_copy(update={"hashes": pins[0].hashes[:1]})
    other_version = pins[0].model_copy(update={"version": "9"})
    keys = {key_of(one) for one in (pins, pins[1:], (other_hash, *pins[1:]), (other_version, *pins[1:]))}
    assert len(keys) == 4


def test_the_lock_text_has_every_hash_and_no_address() -> None:
    text = requirements_text(read(FIXTURES / "uv/uv.lock").pins)
    assert text.startswith("click==8.5.1 \\\n    --hash=sha256:")
    assert text.count("--hash=sha256:") == 8
    assert "://" not in text


def test_this_machine_is_told_as_markers_tags_and_conda_see_it() -> None:
    here = Target.here()
    assert here.holds("python_version == '3.11'")
    assert not here.holds("extra == 'x'")
    assert here.can_install("idna-3.7-py3-none-any.whl")
    assert here.can_install("idna-3.7.tar.gz")
    assert not here.can_install("x-1-cp39-cp39-win_amd64.whl")


@pytest.mark.parametrize(
    ("name", "text", "error", "said"),
    [
        ("uv.lock", "", InvalidExperiment, "is empty"),
        ("uv.lock", "  \n", InvalidExperiment, "is empty"),
        ("uv.lock", "this = is not\n", InvalidExperiment, "is not TOML"),
        ("poetry.lock", "<<<<<<< HEAD\n", InvalidExperiment, "is not TOML"),
        ("some.toml", "a = 1\n", InvalidExperiment, "neither a uv.lock, a poetry.lock nor a pylock.toml"),
        ("environment.yml", "a: [\n", InvalidExperiment, "is not YAML"),
        ("environment.yml", "- a\n", InvalidExperiment, "must be a YAML mapping, is list"),
        ("environment.yml", "a: 1\n", InvalidExperiment, "neither an environment.yml"),
        ("pyproject.toml", "[project]\n", UsageError, "uv lock"),
        ("Pipfile.lock", "{}", UsageError, "pipenv requirements --hash"),
        ("packages.json", "{}", UsageError, "give --format: uv.lock, pylock.toml"),
    ],
)
def test_a_file_that_is_none_is_one_clear_error(
    name: str, text: str, error: type[TunewrightError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as caught:
        read_text(tmp_path, name, text)
    assert said in str(caught.value)
    assert name in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidExperiment, match="cannot be read"):
        read(tmp_path / "requirements.txt")


def test_no_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"uv\.lock: no such file"):
        read(tmp_path / "uv.lock")


def test_a_yaml_file_runs_no_code(tmp_path: Path) -> None:
    with pytest.raises(InvalidExperiment, match="is not YAML"):
        read_text(tmp_path, "environment.yml", "dependencies: !!python/object/apply:os.system ['true']\n")
