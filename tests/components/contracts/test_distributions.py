"""The name and the version of a distribution, from the head of its metadata."""

from __future__ import annotations

from tunewright.contracts.distributions import name_and_version

METADATA = (
    "Metadata-Version: 2.1\nName: Some_Thing\nVersion: 1.2.post1\nSummary: a: b\n\nName: of a person\nVersion: 9\n"
)


def test_they_are_read_from_the_head_and_not_from_the_readme_below_it() -> None:
    assert name_and_version({"METADATA": METADATA}.get) == ("Some_Thing", "1.2.post1")
    assert name_and_version({"METADATA": METADATA.replace("\n", "\r\n")}.get) == ("Some_Thing", "1.2.post1")


def test_an_egg_tells_them_in_another_file() -> None:
    assert name_and_version({"PKG-INFO": METADATA}.get) == ("Some_Thing", "1.2.post1")


def test_what_is_not_told_is_a_question_mark() -> None:
    assert name_and_version(lambda file: None) == ("?", "?")
    assert name_and_version({"METADATA": "Metadata-Version: 2.1\n\nName: below\n"}.get) == ("?", "?")
