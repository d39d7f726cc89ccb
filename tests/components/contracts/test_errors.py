"""The error tree: drawn, exit codes as promised, built-ins inherited, picklable."""

from __future__ import annotations

import builtins
import pickle
import re
from collections.abc import Iterator

import pytest

from tunewright.contracts import errors
from tunewright.contracts.errors import InvalidExperiment, PreflightFailed, Problem, TunewrightError
from tunewright.contracts.preflight import Finding, PreflightReport


def walk(kind: type[TunewrightError]) -> Iterator[type[TunewrightError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from walk(child)


ALL = list(dict.fromkeys(walk(TunewrightError)))
LINE = re.compile(
    r"(?P<indent>[ │]*)(?:[├└]── )?(?P<name>[A-Z]\w+)(?: \((?P<builtin>\w+)\))?(?: +(?P<code>\d+))?(?: |$)"
)


def drawn() -> dict[str, re.Match[str]]:
    assert errors.__doc__ is not None
    lines = errors.__doc__.split("To add one")[0].splitlines()
    found = (LINE.match(line) for line in lines if "──" in line)
    return {match["name"]: match for match in found if match}


def test_the_drawing_has_every_class_of_the_module_and_no_other() -> None:
    assert set(drawn()) == {kind.__name__ for kind in ALL} - {"TunewrightError"}


@pytest.mark.parametrize("kind", ALL[1:])
def test_a_class_is_what_the_drawing_says(kind: type[TunewrightError]) -> None:
    line = drawn()[kind.__name__]
    if line["code"]:
        assert kind.exit_code == int(line["code"])
    if line["builtin"]:
        assert issubclass(kind, getattr(builtins, line["builtin"]))


@pytest.mark.parametrize("kind", ALL[1:])
def test_a_class_inherits_a_built_in_beside_ours(kind: type[TunewrightError]) -> None:
    ancestors = [one for one in kind.__mro__ if one.__module__ == "builtins" and issubclass(one, Exception)]
    assert ancestors[0] is not Exception, "inherit the built-in it refines"


@pytest.mark.parametrize("kind", ALL)
def test_an_error_survives_pickling_with_everything_it_carries(kind: type[TunewrightError]) -> None:
    error = kind("a message", "a hint")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.hint) == (kind, str(error), "a hint")


def test_problems_and_reports_survive_pickling() -> None:
    report = PreflightReport(findings=(Finding(code="a-code", message="a message"),))
    refused = pickle.loads(pickle.dumps(PreflightFailed("no", report=report)))
    wrong = pickle.loads(pickle.dumps(InvalidExperiment.from_problems("a.toml", [Problem("seed", "is wrong")])))
    assert refused.report == report
    assert wrong.problems == (Problem("seed", "is wrong"),)


def test_every_class_says_what_it_is_for() -> None:
    assert [kind.__name__ for kind in ALL if not kind.__dict__.get("__doc__")] == []


@pytest.mark.parametrize(
    ("name", "code"),
    [("UsageError", 64), ("IntegrityError", 65), ("NotFound", 66), ("Unavailable", 69), ("RunStopped", 75),
     ("PreflightFailed", 77), ("InvalidExperiment", 78), ("CacheCorrupted", 65), ("CheckpointCorrupted", 65),
     ("RecordMismatch", 65), ("EnvironmentBuildFailed", 69), ("SubmissionRefused", 69), ("UnknownPlugin", 78),
     ("DuplicatePlugin", 78), ("BrokenPlugin", 78), ("InvalidDataset", 78)],
)  # fmt: skip
def test_the_exit_codes_are_the_promised_ones(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_the_hint_stands_on_a_line_of_its_own() -> None:
    assert str(TunewrightError("what", "next")) == "what\nhint: next"
    assert str(TunewrightError("what")) == "what"
    assert str(Problem("a.b", "is wrong", "do this")) == "a.b: is wrong\n    hint: do this"
