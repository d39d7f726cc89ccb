"""conda's files: what is Python's is taken by its name in the index, and said to be; the rest is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.env_builder_foreign.machine import FIXTURES, pins_of, read, read_text, reasons
from tunewright.contracts.errors import InvalidExperiment, UsageError
from tunewright.env_builder.foreign.conda_names import pypi_name

LOCK = FIXTURES / "conda/conda-lock.yml"
ENVIRONMENT = FIXTURES / "conda/environment.yml"


def test_a_conda_lock_gives_the_python_packages_of_this_platform() -> None:
    lock = read(LOCK)
    assert pins_of(lock) == ["click==8.1.7", "idna==3.7", "torch==2.3.1"]
    assert {pin.name: pin.conda_name for pin in lock.pins} == {"click": "click", "idna": None, "torch": "pytorch"}
    assert lock.requires_python == "3.11.9"


def test_only_hashes_of_pip_packages_are_hashes_of_what_pip_will_find() -> None:
    hashes = {pin.name: len(pin.hashes) for pin in read(LOCK).pins}
    assert hashes == {"click": 0, "idna": 1, "torch": 0}


def test_packages_taken_by_their_names_are_said_to_be() -> None:
    notes = read(LOCK).notes
    assert "conda's pytorch is torch in the Python index" in notes
    assert any("taken by their names in the Python index" in note for note in notes)


def test_what_a_conda_lock_leaves_behind_has_version_channel_and_reason() -> None:
    lock = read(LOCK)
    left = reasons(lock)
    assert left["bzip2 1.0.8 from conda-forge"] == "a conda package that is no Python package"
    assert left["_libgcc_mutex 0.1 from conda-forge"] == "a conda package that is no Python package"
    assert left["appnope 0.1.4"] == "only for osx-arm64"
    assert "group dev" in left["iniconfig 2.0.0"]
    assert left["gitdep 0.3.0"].startswith("from git: git+https://example.invalid/gitdep.git@")
    assert "channel conda-forge" in left
    assert "token" not in lock.model_dump_json()


def test_a_category_is_asked_for_as_a_group() -> None:
    assert "iniconfig==2.0.0" in pins_of(read(LOCK, groups=("dev",)))
    with pytest.raises(UsageError, match="it has: dev"):
        read(LOCK, groups=("docs",))


def test_a_lock_for_other_machines_only_is_refused_with_theirs(tmp_path: Path) -> None:
    text = LOCK.read_text().replace("platform: linux-64", "platform: win-64")
    with pytest.raises(InvalidExperiment, match="has nothing for linux-64; its platforms: osx-arm64, win-64"):
        read_text(tmp_path, "conda-lock.yml", text)


def test_an_environment_file_gives_what_is_pythons() -> None:
    lock = read(ENVIRONMENT)
    assert pins_of(lock) == ["click==8.1.7", "idna==3.7", "packaging==24.0", "six==1.16.0", "torch==2.3.1"]
    assert {pin.name: pin.where.rpartition(":")[2] for pin in lock.pins} == {
        "click": "7", "packaging": "8", "torch": "9", "idna": "14", "six": "15",
    }  # fmt: skip
    assert any("single" in note or "`=1.26`" in note for note in lock.notes)


def test_what_an_environment_file_leaves_behind_has_its_reason_and_tells_no_value() -> None:
    lock = read(ENVIRONMENT)
    left = reasons(lock)
    assert left["cudatoolkit 11.8"] == "a conda package that is no Python package"
    assert left["libblas 3.9.0"] == "a conda package that is no Python package"
    assert {"channel conda-forge", "channel https://conda.example.invalid/private", "pip"} <= set(left)
    assert "variable SERVICE_TOKEN" in left
    assert "hidden-value" not in lock.model_dump_json()


@pytest.mark.parametrize(
    ("entry", "requirement"),
    [
        ("numpy", "numpy"),
        ("numpy>=1.20", "numpy>=1.20"),
        ("numpy >=1.20,<2", "numpy<2,>=1.20"),
        ("numpy=1.26.*", "numpy==1.26.*"),
        ("pytorch>=2", "torch>=2"),
    ],
)
def test_what_has_no_exact_version_is_loose_with_its_line(entry: str, requirement: str, tmp_path: Path) -> None:
    lock = read_text(tmp_path, "environment.yml", f"dependencies:\n  - idna=3.7\n  - {entry}\n")
    assert [(one.requirement, one.where.rpartition(":")[2]) for one in lock.loose] == [(requirement, "3")]


@pytest.mark.parametrize(
    "entry", ["numpy==1.26.4", "numpy=1.26.4", "numpy 1.26.4 py311h64a7726_0", "NumPy=1.26.4=py311_0"]
)
def test_what_has_an_exact_version_is_pinned(entry: str, tmp_path: Path) -> None:
    assert pins_of(read_text(tmp_path, "env.yaml", f"dependencies: ['{entry}']\n")) == ["numpy==1.26.4"]


def test_loose_lines_of_the_pip_list_have_their_own_line(tmp_path: Path) -> None:
    text = "dependencies:\n  - idna=3.7\n  - pip:\n    - click\n    - -r more.txt\n"
    (tmp_path / "more.txt").write_text("six\n")
    lock = read_text(tmp_path, "environment.yml", text)
    assert lock.loose[0].where.rpartition("/")[2] == "environment.yml:4"
    assert {one.name for one in lock.loose} == {"click", "six"}


def test_another_python_is_told(tmp_path: Path) -> None:
    lock = read_text(tmp_path, "environment.yml", "dependencies: [python=3.9, idna=3.7]\n")
    assert "environments have Python 3.11.7" in reasons(lock)["Python 3.9"]


@pytest.mark.parametrize(
    "python", ["python=3.11", "python==3.11.7", "python>=3.8", "python", "python=3.11.*", "python 3.11"]
)
def test_a_python_that_fits_is_not(python: str, tmp_path: Path) -> None:
    lock = read_text(tmp_path, "environment.yml", f"dependencies: ['{python}', idna=3.7]\n")
    assert not any(name.startswith("Python") for name in reasons(lock))


def test_a_version_the_index_cannot_have_stays_behind(tmp_path: Path) -> None:
    lock = read_text(tmp_path, "environment.yml", "dependencies: [idna=3.7, odd=9_e_b1x]\n")
    assert "is none of the Python index" in reasons(lock)["odd 9_e_b1x"]


@pytest.mark.parametrize(
    ("conda", "index"),
    [
        ("pytorch", "torch"),
        ("numpy", "numpy"),
        ("grpcio-tools", "grpcio-tools"),
        ("libclang", "libclang"),
        ("libstdcxx-ng", None),
        ("openssl", None),
        ("r-base", None),
        ("cuda-nvcc", None),
        ("cuda-python", "cuda-python"),
        ("arrow-cpp", None),
    ],
)
def test_names_of_conda_in_the_index(conda: str, index: str | None) -> None:
    assert pypi_name(conda) == index


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("conda-lock.yml", "version: 2\npackage: []\n", "lock version 2 is newer"),
        ("conda-lock.yml", "version: 1\npackage: [{name: x}]\n", "package.0.version: field required"),
        ("environment.yml", "dependencies: [a, {conda: [b]}]\n", "`conda:` is no list that conda has"),
        ("environment.yml", "dependencies: [numpy=1.2|1.3]\n", "pip has no such way to ask"),
        ("environment.yml", "dependencies: []\n", "holds no dependency"),
        ("environment.yml", "dependencies: 3\n", "dependencies: "),
    ],
)
def test_a_broken_file_is_one_clear_error(name: str, text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidExperiment) as caught:
        read_text(tmp_path, name, text)
    assert said in caught.value.message
