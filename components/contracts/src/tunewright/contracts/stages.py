"""`[[stages]]`: one experiment file that is a pipeline. Each stage is the file with its own tables on top. Pure."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tunewright.contracts.errors import InvalidExperiment, Problem
from tunewright.contracts.experiment import NAME_PATTERN, ClusterSpec, ExperimentSpec, TrainingSpec, excluded_by
from tunewright.contracts.spec import Spec

STAGES_KEY = "stages"
AFTER_KEY = "after"
RUN_PREFIX = "run:"

OVERLAY_KEYS = tuple(name for name in ExperimentSpec.model_fields if name not in ("schema_version", "name"))
"""What a stage may have besides its name: everything of an experiment but what makes the file one file."""

_CHOICES: dict[str, tuple[str, type[Spec]]] = {"training": ("variant", TrainingSpec), "cluster": ("name", ClusterSpec)}
"""The key of a table that says whose its `options` are."""

Document = dict[str, Any]
Found = TypeVar("Found")


@dataclass(frozen=True)
class Stage:
    """The place of a stage in its file."""

    number: int
    """From 0, as `--set stages.0.training.max_steps=5` counts."""

    name: str
    """Unique in its file."""

    before: str | None = None
    """The stage whose model it starts from: the last one before it that leaves a model, which an `evaluate` does not.

    None: it says its own model, as the first one does.
    """

    sets: frozenset[str] = field(default_factory=frozenset)
    """The fields that it sets itself: `training.max_steps`, `dataset.mix`."""

    after: tuple[str, ...] = ()
    """The stages that must have succeeded before it starts: those of its `after`, else the one before it."""

    @property
    def label(self) -> str:
        """How messages name it: `stages.1 (dpo)`."""
        return f"{STAGES_KEY}.{self.number} ({self.name})"

    def run_in(self, pipeline: str) -> str:
        """The name of its run, in a pipeline of that name."""
        return stage_run(pipeline, self.name)

    def model_in(self, pipeline: str) -> str | None:
        """What `model.name_or_path` is in a pipeline of that name; None where the stage says its own."""
        return None if self.before is None else f"{RUN_PREFIX}{stage_run(pipeline, self.before)}"


@dataclass(frozen=True)
class StageDocument:
    """The experiment that a stage is, before it is parsed."""

    stage: Stage | None
    """None for a file without stages."""

    document: Document
    """A whole experiment, without `stages`."""


def stage_run(pipeline: str, stage: str) -> str:
    """The name of the run of `stage`."""
    return f"{pipeline}-{stage}"


def split_stages(document: Document, source: str) -> tuple[StageDocument, ...]:
    """The experiment of each stage of `document`, in order; the document itself where it has no stages.

    Raises InvalidExperiment with every problem that the stages have as such; `source` names the file.
    """
    if STAGES_KEY not in document:
        return (StageDocument(None, document),)
    given = document[STAGES_KEY]
    problems = _list_problems(given) or [*_item_problems(given), *_name_problems(given), *_after_problems(given)]
    if problems:
        raise InvalidExperiment.from_problems(source, problems)
    file = {key: value for key, value in document.items() if key != STAGES_KEY}
    stages = _stages_of(given, file.get("job"))
    return tuple(
        StageDocument(stage, _document_of(stage, file, overlay)) for stage, overlay in zip(stages, given, strict=True)
    )


def _list_problems(given: Any) -> list[Problem]:
    if isinstance(given, list) and given and all(isinstance(one, dict) for one in given):
        return []
    return [Problem(STAGES_KEY, f"must be one or more tables, got {given!r}", "each begins with `[[stages]]`")]


def _item_problems(given: Sequence[Document]) -> list[Problem]:
    problems = []
    for number, overlay in enumerate(given):
        path = f"{STAGES_KEY}.{number}"
        for key in overlay.keys() - {"name", AFTER_KEY, *OVERLAY_KEYS}:
            close = difflib.get_close_matches(key, OVERLAY_KEYS, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"allowed: name, {AFTER_KEY}, {', '.join(OVERLAY_KEYS)}"
            problems.append(Problem(f"{path}.{key}", "unknown key", hint))
        name = overlay.get("name")
        if name is None:
            problems.append(Problem(f"{path}.name", "is missing", "the stage's run is named after it"))
        elif not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
            problems.append(Problem(f"{path}.name", f"must match {NAME_PATTERN}, got {name!r}"))
    return problems


def _name_problems(given: Sequence[Document]) -> list[Problem]:
    names = Counter(str(overlay.get("name")) for overlay in given if overlay.get("name") is not None)
    twice = [name for name, count in names.items() if count > 1]
    return [Problem(STAGES_KEY, f"{names[name]} stages are called `{name}`", "each needs its own") for name in twice]


def _after_problems(given: Sequence[Document]) -> list[Problem]:
    """Stages can only start after earlier ones of the file: so there is no circle, and the file reads in order."""
    problems = []
    for number, overlay in enumerate(given):
        path, after = f"{STAGES_KEY}.{number}.{AFTER_KEY}", overlay.get(AFTER_KEY, [])
        earlier = [one.get("name") for one in given[:number]]
        if not isinstance(after, list) or not all(isinstance(one, str) for one in after):
            problems.append(Problem(path, f"must be a list of names, got {after!r}", "the stages that it starts after"))
            continue
        there = f"before it are: {', '.join(map(str, earlier))}" if earlier else "it is the first one"
        for name in dict.fromkeys(one for one in after if one not in earlier):
            is_later = name in [one.get("name") for one in given[number:]]
            what = "is not before this one in the file" if is_later else "is no stage of this file"
            problems.append(Problem(path, f"`{name}` {what}", there))
    return problems


def _stages_of(given: Sequence[Document], job_of_file: Any) -> list[Stage]:
    stages: list[Stage] = []
    model_after: dict[str, str | None] = {}  # by stage: whose model there is once it is done
    last_model: str | None = None  # the last stage that leaves one: an evaluation does not
    for number, overlay in enumerate(given):
        name, model = overlay["name"], overlay.get("model")
        after = tuple(overlay.get(AFTER_KEY, [one.name for one in stages[-1:]]))
        before = last_model
        if isinstance(model, dict) and "name_or_path" in model:
            before = None
        elif AFTER_KEY in overlay:
            before = next((one for one in map(model_after.__getitem__, after) if one), None)
        stages.append(Stage(number, name, before, frozenset(_fields(overlay)), after))
        if overlay.get("job", job_of_file) != "evaluate":
            last_model = name
        model_after[name] = before if overlay.get("job", job_of_file) == "evaluate" else name
    return stages


def _fields(table: Document, prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _fields(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _document_of(stage: Stage, file: Document, overlay: Document) -> Document:
    tables = {name: merge_table(name, file.get(name), overlay[name]) for name in overlay.keys() - {"name", AFTER_KEY}}
    document = {**file, **tables}
    name = file.get("name")
    if isinstance(name, str) and re.fullmatch(NAME_PATTERN, name):  # else it is told as it was written
        document["name"] = stage_run(name, stage.name)
        model = stage.model_in(name)
        if model is not None:
            document["model"] = _model_left(document.get("model"), overlay.get("model"), model)
    return document


def _model_left(merged: Any, overlay: Any, name: str) -> Any:
    """`[model]` of a stage that goes on with the model of the stage before it."""
    if not isinstance(merged, dict | None):
        return merged
    own = overlay if isinstance(overlay, dict) else {}
    # The first stage may start from random weights, of a commit of the hub: this one starts from a directory.
    left = {key: value for key, value in (merged or {}).items() if key not in ("revision", "weights") or key in own}
    return {**left, "name_or_path": name}


def merge_table(name: str, below: Any, above: Any) -> Any:
    """Table `name` of a file with a stage's on top, key by key; an array replaces the other.

    Keys that exclude each other replace each other. What belongs to another variant, cluster or model is left out.
    """
    if not isinstance(below, dict) or not isinstance(above, dict):
        return above
    kept = {key: value for key, value in below.items() if not above.keys() & excluded_by(key)}
    if name in _CHOICES and _chooses_another(*_CHOICES[name], kept, above):
        kept.pop("options", None)
    if name == "model" and "name_or_path" in above:
        kept.pop("revision", None)
    return _merge(kept, above)


def _chooses_another(key: str, table: type[Spec], below: Document, above: Document) -> bool:
    return key in above and above[key] != below.get(key, table.model_fields[key].default)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Document:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merge(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def own_model_problems(stage: Stage | None, document: Document) -> list[Problem]:
    """What a stage says of a model that it does not choose."""
    model = document.get("model")
    if stage is None or stage.before is None or not isinstance(model, dict):
        return []
    because = f"this stage starts from the model of stage `{stage.before}`"
    hint = "leave it out, or set `model.name_or_path` in this stage too"
    wrong = {"weights": model.get("weights") == "random", "revision": "revision" in model}
    return [Problem(f"model.{key}", f"is {model[key]!r}, but {because}", hint) for key in wrong if wrong[key]]


def told_by_stage(
    stages: Sequence[Stage | None],
    found: Sequence[Sequence[Found]],
    path_of: Callable[[Found], str],
    at_path: Callable[[Found, str], Found],
) -> list[Found]:
    """What was found in each stage, with the stage's label before its path: `stages.1 (dpo): training.max_steps`.

    What lies in the file's own tables is found in every stage alike, and told once, as in a file without stages.
    """
    alike = [one for one in found[0] if all(one in others for others in found)]
    common = [one for one in alike if not any(stage and _is_own(path_of(one), stage) for stage in stages)]
    told = list(common)
    for stage, ones in zip(stages, found, strict=True):
        told += [_labelled(stage, one, path_of, at_path) for one in ones if one not in common]
    return told


def _is_own(path: str, stage: Stage) -> bool:
    """Whether the stage sets the field at `path`, the table around it, or a part of it."""
    place = path.replace("[", ".") + "."
    return bool(path) and any(place.startswith(f"{one}.") or f"{one}.".startswith(place) for one in stage.sets)


def _labelled(
    stage: Stage | None, one: Found, path_of: Callable[[Found], str], at_path: Callable[[Found, str], Found]
) -> Found:
    if stage is None:
        return one
    path = path_of(one)
    return at_path(one, f"{stage.label}: {path}" if path else stage.label)


def problems_by_stage(stages: Sequence[Stage | None], found: Sequence[Sequence[Problem]]) -> list[Problem]:
    """The problems of each stage, with its label before their paths; those of the file's own tables once."""
    return told_by_stage(
        stages, found, lambda problem: problem.path, lambda problem, path: Problem(path, problem.message, problem.hint)
    )
