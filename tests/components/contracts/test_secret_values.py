"""Where a client finds the value of a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunewright.contracts.errors import SubmissionRefused
from tunewright.contracts.secret_values import read_secrets


def run_dir_with(tmp_path: Path, name: str = "", text: str = "", mode: int = 0o600) -> Path:
    (tmp_path / "secrets").mkdir()
    if name:
        path = tmp_path / "secrets" / name
        path.write_text(text)
        path.chmod(mode)
    return tmp_path / "runs" / "run"


def test_the_homes_file_comes_before_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("my-token", "from the environment")
    run_dir = run_dir_with(tmp_path, "my-token", "from the file\n")
    assert read_secrets({"HF_TOKEN": "my-token"}, run_dir) == {"HF_TOKEN": "from the file"}


def test_without_a_file_the_variable_of_that_name_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "value")
    assert read_secrets({"HF_TOKEN": "MY_TOKEN"}, run_dir_with(tmp_path)) == {"HF_TOKEN": "value"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    run_dir = run_dir_with(tmp_path, "my-token", "value", mode)
    with pytest.raises(SubmissionRefused, match=r"(?s)my-token.*chmod 600") as caught:
        read_secrets({"HF_TOKEN": "my-token"}, run_dir)
    assert "value" not in str(caught.value)


def test_a_missing_secret_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SubmissionRefused, match=r"cluster\.secrets\.HF_TOKEN.*`nowhere`"):
        read_secrets({"HF_TOKEN": "nowhere"}, run_dir_with(tmp_path))


@pytest.mark.parametrize("name", ["../secrets/my-token", "..", ".", "", "/etc/hostname"])
def test_a_name_that_leaves_the_directory_is_no_secret(tmp_path: Path, name: str) -> None:
    with pytest.raises(SubmissionRefused, match="there is no secret"):
        read_secrets({"HF_TOKEN": name}, run_dir_with(tmp_path, "my-token", "value"))


def test_only_a_run_of_a_home_has_the_homes_secrets(tmp_path: Path) -> None:
    run_dir_with(tmp_path, "my-token", "value")
    with pytest.raises(SubmissionRefused):
        read_secrets({"HF_TOKEN": "my-token"}, tmp_path / "elsewhere" / "run")
