"""`requirements.txt`: as pip-compile and uv write it, and as people do."""

from __future__ import annotations

from pathlib import Path

import pytest

from components.env_builder_foreign.machine import FIXTURES, pins_of, read, read_text, reasons
from tunewright.contracts.errors import InvalidExperiment, NotFound, UsageError
from tunewright.env_builder.foreign.lock import ForeignLock

DIGEST, OTHER = "d" * 64, "e" * 64


def lock_of(tmp_path: Path, text: str) -> ForeignLock:
    return read_text(tmp_path, "requirements.txt", text)


@pytest.mark.parametrize("name", ["pip-compile", "uv-export"])
def test_what_tools_write_gives_the_same_pins_as_the_uv_lock(name: str) -> None:
    of_uv = {pin.name: pin.hashes for pin in read(FIXTURES / "uv/uv.lock").pins}
    assert {pin.name: pin.hashes for pin in read(FIXTURES / name / "requirements.txt").pins} == of_uv


def test_what_uv_exports_beyond_pins_stays_behind_with_its_line() -> None:
    left = reasons(read(FIXTURES / "uv-export/requirements.txt"))
    assert any(name.startswith("-e ./packages/tool") and "requirements.txt:3" in why for name, why in left.items())
    assert any(name.startswith("gitdep @ git+https://example.invalid/gitdep.git") for name in left)


def test_hashes_extras_markers_comments_and_continuations_are_read(tmp_path: Path) -> None:
    text = (
        "# a comment\n"
        f"Click[Speed]==8.1.7 ; python_version >= '3.8' \\\n    --hash=sha256:{DIGEST} \\\n"
        f"    --hash sha256:{OTHER}  # end\n"
        "\n"
        "idna ==3.7 # why\n"
        "zope.interface===6.0\n"
        "old==1 ; python_version < '3'\n"
    )
    lock = lock_of(tmp_path, text)
    assert pins_of(lock) == ["click==8.1.7", "idna==3.7", "zope-interface==6.0"]
    click = lock.pins[0]
    assert click.hashes == (f"sha256:{DIGEST}", f"sha256:{OTHER}")
    assert (click.extras, click.marker) == (("speed",), 'python_version >= "3.8"')
    assert click.where.endswith("requirements.txt:2")
    assert lock.pins[1].where.endswith("requirements.txt:6")
    assert "does not hold" in reasons(lock)["old==1 ; python_version < '3'"]


@pytest.mark.parametrize("line", ["click", "click>=8", "click~=8.1", "click==8.*", "click>=8,<9", "click[extra]"])
def test_what_is_not_exactly_one_version_is_loose_with_its_line(line: str, tmp_path: Path) -> None:
    lock = lock_of(tmp_path, f"idna==3\n\n{line}\n")
    assert pins_of(lock) == ["idna==3"]
    assert [one.where.rpartition("/")[2] for one in lock.loose] == ["requirements.txt:3"]


def test_a_loose_line_that_another_line_pins_is_pinned(tmp_path: Path) -> None:
    lock = lock_of(tmp_path, "click>=8\nclick==8.1.7\n")
    assert (pins_of(lock), lock.loose) == (["click==8.1.7"], ())


def test_a_loose_line_that_forbids_the_pinned_version_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidExperiment, match=r"requirements.txt:1: `click>=9` does not allow click==8\.1\.7"):
        lock_of(tmp_path, "click>=9\nclick==8.1.7\n")


def test_included_files_are_followed_from_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/base.txt").write_text("-r more.txt\nidna==3.7\n")
    (tmp_path / "sub/more.txt").write_text("six==1.16.0\n")
    lock = lock_of(tmp_path, "-r sub/base.txt\n--requirement=sub/more.txt\nclick==8.1.7\n")
    assert pins_of(lock) == ["click==8.1.7", "idna==3.7", "six==1.16.0"]
    assert lock.pins[2].where.endswith("sub/more.txt:1")


def test_files_that_include_each_other_are_refused_with_the_circle(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("-r b.txt\n")
    (tmp_path / "b.txt").write_text("-r requirements.txt\n")
    with pytest.raises(InvalidExperiment, match=r"b\.txt:1: the files include each other: .*a\.txt -> .*b\.txt -> "):
        lock_of(tmp_path, "-r a.txt\n")


def test_an_included_file_that_is_not_there_is_named_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"requirements\.txt:2: `-r gone\.txt`: no such file"):
        lock_of(tmp_path, "idna==3\n-r gone.txt\n")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("--index-url https://me:hunter2@example.invalid/simple", "--index-url https://example.invalid/simple"),
        ("-i https://example.invalid/simple?key=hunter2", "-i https://example.invalid/simple"),
        ("--extra-index-url=https://example.invalid/more", "--extra-index-url https://example.invalid/more"),
        ("--find-links ./wheels", "--find-links ./wheels"),
        ("-c constraints.txt", "-c constraints.txt"),
        ("-e .", "-e ."),
        ("--editable=git+ssh://git@example.invalid/x", "--editable git+ssh://example.invalid/x"),
        ("--trusted-host example.invalid", "--trusted-host example.invalid"),
        ("--no-binary :all:", "--no-binary :all:"),
        ("-r https://me:hunter2@example.invalid/other.txt", "-r https://example.invalid/other.txt"),
        ("git+https://hunter2@example.invalid/x.git@main", "git+https://example.invalid/x.git@main"),
        ("x @ https://me:hunter2@example.invalid/x-1.whl", "x @ https://example.invalid/x-1.whl"),
        ("./wheels/x-1-py3-none-any.whl", "./wheels/x-1-py3-none-any.whl"),
        ("https://${TOKEN}@example.invalid/x-1.whl", "https://example.invalid/x-1.whl"),
    ],
)
def test_lines_that_cannot_be_carried_over_are_named_and_tell_no_secret(line: str, what: str, tmp_path: Path) -> None:
    lock = lock_of(tmp_path, f"idna==3\n{line}\n")
    assert what in reasons(lock)
    assert "requirements.txt:2" in reasons(lock)[what]
    assert "hunter2" not in lock.model_dump_json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("click==8.1.7\nclick==8.1.6\n", "requirements.txt:2: click is pinned to 8.1.6 here, and to 8.1.7 before"),
        ("click=8.1.7\n", "requirements.txt:1: `click=8.1.7` is no requirement"),
        ("click ==8 ; os_nam == 'x'\n", "requirements.txt:1: "),
        ("--what\n", "requirements.txt:1: `--what` is no option of a requirements file"),
        (f"--require-hashes\nclick==8\nidna==3 --hash=sha256:{DIGEST}\n", "requirements.txt:2: click==8 has no hash"),
        ("click==8 --hash=sha256:12\n", "is no hash: must have 64 hexadecimal digits after `sha256:`"),
        ("@EXPLICIT\n", "is conda's"),
        ("# nothing\n", "holds no requirement"),
        ("x==1 y==2 https://me:hunter2@example.invalid\n", "https://example.invalid"),
    ],
)
def test_a_broken_line_is_one_clear_error(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidExperiment) as caught:
        lock_of(tmp_path, text)
    assert said in caught.value.message
    assert "hunter2" not in str(caught.value)


def test_every_broken_line_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(InvalidExperiment, match="2 problems"):
        lock_of(tmp_path, "a=1\nb=2\n")


def test_hashes_pip_does_not_take_are_told_and_not_used(tmp_path: Path) -> None:
    lock = lock_of(tmp_path, f"click==8 --hash=md5:{'0' * 32}\n")
    assert lock.pins[0].hashes == ()
    assert "its md5 hash is not used" in lock.notes[0]


def test_a_requirements_file_has_no_extras_to_ask_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it has no extra"):
        read_text(tmp_path, "requirements.txt", "click==8\n", extras=("pretty",))
