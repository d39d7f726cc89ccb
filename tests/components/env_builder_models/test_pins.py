"""Which model is meant: a commit, never a name that moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunewright.contracts.errors import UsageError
from tunewright.env_builder.models.pins import LocalModel, ModelPin, check_commit, parse_model, parse_model_pin

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("model_id", ["gpt2", "allenai/OLMo-2-0425-1B", "a/b.c_d-e", "org/x"])
def test_an_id_at_a_commit_is_a_pin(model_id: str) -> None:
    assert parse_model_pin(f"{model_id}@{COMMIT}") == ModelPin(model_id, COMMIT)
    assert str(parse_model_pin(f"{model_id}@{COMMIT}")) == f"{model_id}@{COMMIT}"


def test_a_commit_in_capitals_is_the_same_commit() -> None:
    assert check_commit(COMMIT.upper(), "a/b") == COMMIT


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1", "0123456789abcdeg0123456789abcdef01234567"])
def test_a_name_that_moves_is_refused_with_where_to_find_the_commit(revision: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_commit(revision, "makers/small")
    assert f"`{revision}`" in str(caught.value)
    assert "40 hexadecimal digits" in str(caught.value)
    assert "git ls-remote https://huggingface.co/makers/small main" in caught.value.hint


def test_no_commit_at_all_is_told_with_where_to_find_it() -> None:
    with pytest.raises(UsageError, match="got none") as caught:
        check_commit("", "makers/small")
    assert "git ls-remote" in caught.value.hint


def test_a_shortened_commit_is_told_by_its_length() -> None:
    with pytest.raises(UsageError, match="got 12 of them"):
        check_commit(COMMIT[:12], "makers/small")


@pytest.mark.parametrize(
    "model_id",
    ["", "a/b/c", "../a", "a/..", "a--b/c", "-a/b", "a/b.git", "a b/c", "a/", "/a", "a" * 97, "https://x/y", "a/b\n"],
)
def test_what_is_no_id_is_refused(model_id: str) -> None:
    with pytest.raises(UsageError, match="is no id of a model"):
        parse_model_pin(f"{model_id}@{COMMIT}")


def test_an_id_without_a_commit_is_refused_by_the_option_it_came_with() -> None:
    with pytest.raises(UsageError, match=r"`--model makers/small`: must be `ID@COMMIT`"):
        parse_model("makers/small")


def test_a_directory_gets_a_name() -> None:
    assert parse_model("ours/tiny=examples/models/tiny") == LocalModel("ours/tiny", Path("examples/models/tiny"))
    assert parse_model(f"makers/small@{COMMIT}") == ModelPin("makers/small", COMMIT)


@pytest.mark.parametrize("text", ["tiny=", "=directory", "a b=directory"])
def test_a_directory_without_a_name_or_the_other_way_round_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_model(text)
