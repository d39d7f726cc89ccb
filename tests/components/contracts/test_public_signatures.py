"""The contracts are what strangers build on: a change of a public name or signature must be meant."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import pkgutil
from pathlib import Path

import pytest

import tunewright.contracts
from components.contracts.public_signatures import MODULES, public_classes, public_lines
from tunewright.contracts.adapters import AdapterOptions
from tunewright.contracts.spec import Spec, field_descriptions

RECORDED = Path("tests/components/contracts/public_signatures.txt")
ACCEPT = f"./pants run tests/components/contracts/public_signatures.py > {RECORDED}"


def recorded() -> list[str]:
    path = RECORDED if RECORDED.exists() else Path(__file__).with_name(RECORDED.name)
    return path.read_text().splitlines()


def test_public_names_and_signatures_are_the_recorded_ones() -> None:
    changes = list(difflib.unified_diff(recorded(), public_lines(), "recorded", "now", lineterm="", n=0))
    assert changes == [], (
        "the public face of the contracts changed:\n" + "\n".join(changes)
        + "\n\nAn addition with a default breaks nobody. A removal or a change needs a new API_VERSION and a line in"
        f"\ncomponents/contracts/CHANGELOG.md. If it is meant, accept it:\n    {ACCEPT}"
    )  # fmt: skip


def test_no_module_is_left_out() -> None:
    installed = {f"tunewright.contracts.{info.name}" for info in pkgutil.iter_modules(tunewright.contracts.__path__)}
    assert {module.__name__ for module in MODULES} == installed


def described() -> list[type]:
    return [kind for kind in public_classes() if issubclass(kind, Spec) or dataclasses.is_dataclass(kind)]


@pytest.mark.parametrize("kind", described(), ids=lambda kind: kind.__name__)
def test_every_field_has_a_sentence_under_it(kind: type) -> None:
    descriptions = field_descriptions(kind)
    fields = [name for name in inspect.get_annotations(kind) if not name.startswith("_")]
    assert [name for name in fields if not descriptions.get(name, "").endswith((".", "`."))] == []


def test_every_public_class_function_and_method_says_what_it_is_for() -> None:
    silent = [kind.__name__ for kind in public_classes() if not kind.__dict__.get("__doc__")]
    for kind in public_classes():
        for name, value in list(vars(kind).items()):
            function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if inspect.isfunction(function) and not name.startswith("_") and not function.__doc__:
                silent.append(f"{kind.__name__}.{name}")
    for module in MODULES:
        functions = (one for one in vars(module).values() if inspect.isfunction(one))
        own = (one for one in functions if one.__module__ == module.__name__ and not one.__name__.startswith("_"))
        silent += [f"{module.__name__}.{one.__name__}" for one in own if not one.__doc__]
        silent += [] if module.__doc__ else [module.__name__]
    assert silent == []


def test_the_sentences_are_read_from_the_source_by_name() -> None:
    class Options(Spec):
        memory_gib: float = 1.0
        """Memory of the job."""

        silent: int = 0

    assert field_descriptions(Options) == {"memory_gib": "Memory of the job."}


def test_inherited_fields_have_their_sentences_too() -> None:
    class Adapters(AdapterOptions):
        dropout: float = 0.5
        """Ours."""

    described = field_descriptions(Adapters)
    assert described["dropout"] == "Ours."
    assert described["rank"] == field_descriptions(AdapterOptions)["rank"]
