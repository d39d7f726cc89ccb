"""Reading an experiment file: every problem at once, by its path in the file, each with a hint."""

from __future__ import annotations

import difflib
import os
import tomllib
import typing
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails  # pants: no-infer-dep  (comes with pydantic)

from tunewright.contracts.errors import InvalidExperiment, NotFound, Problem, UsageError
from tunewright.contracts.experiment import ExperimentSpec, ModelSpec, excluded_by
from tunewright.contracts.files import sha256_of_tree
from tunewright.contracts.jobs import ModelReference
from tunewright.contracts.rundir import RunDir
from tunewright.contracts.spec import Spec
from tunewright.contracts.stages import (
    RUN_PREFIX,
    Stage,
    StageDocument,
    own_model_problems,
    problems_by_stage,
    split_stages,
)

HOME_VARIABLE = "TUNEWRIGHT_HOME"
CACHE_ROOT_VARIABLE = "TUNEWRIGHT_CACHE_ROOT"


@dataclass(frozen=True)
class LoadedExperiment:
    """An experiment file that is right, as far as the file alone tells."""

    spec: ExperimentSpec
    """The file with `--set` on top, every default filled in, plugin options not parsed yet."""

    source: str
    """The file's text as written, before `--set`."""

    path: Path
    """Absolute."""

    project_root: Path
    """Absolute: relative paths in the file start here."""

    home: Path
    """Absolute: `$TUNEWRIGHT_HOME`."""

    stage: Stage | None = None
    """Of a file with `[[stages]]`: which of them `spec` is."""

    first_model: ModelSpec | None = None
    """Of a stage that goes on with another's model: what the first of them starts from, with the template in force."""

    @property
    def dataset_model(self) -> ModelSpec:
        """Whose tokenizer and template the dataset is prepared with.

        Training changes neither, so a later stage takes those of the first: its dataset can be prepared, and its digest
        be told, before there is a model to go on with.
        """
        return self.first_model or self.spec.model

    def in_pipeline(self, name: str) -> LoadedExperiment:
        """The same stage where the pipeline is launched as `name`, and its runs are named after that."""
        model_name = self.stage.model_in(name) if self.stage else None
        if model_name is None:
            return self
        model = self.spec.model.model_copy(update={"name_or_path": model_name})
        return replace(self, spec=self.spec.model_copy(update={"model": model}))


def load_experiment(path: Path, assignments: Sequence[str] = (), stage: str | None = None) -> LoadedExperiment:
    """Read and check the experiment at `path`, with `assignments` (`a.b=VALUE`) on top.

    Of a file with `[[stages]]`: its stage `stage`, or the first where none is named. All of them are checked.

    Raises NotFound where there is no file, UsageError for an assignment that is none and for a stage that is none,
    InvalidExperiment with every problem of the file.
    """
    stages = load_stages(path, assignments)
    if stage is None:
        return stages[0]
    names = [loaded.stage.name for loaded in stages if loaded.stage]
    if stage not in names:
        there = f"has the stages {', '.join(f'`{name}`' for name in names)}" if names else "has no stages"
        raise UsageError(f"stage `{stage}`: {path} {there}")
    return stages[names.index(stage)]


def load_stages(path: Path, assignments: Sequence[str] = ()) -> tuple[LoadedExperiment, ...]:
    """The experiment of each stage of the file at `path`, in order; one, without a stage, where it has no stages.

    Raises as `load_experiment`.
    """
    source, document = read_document(path, assignments)
    stages = split_stages(document, str(path))
    specs = _parse_all(stages, str(path))
    root = find_project_root(path.resolve())
    home, loaded = find_home(root), dict[str | None, LoadedExperiment]()
    for stage, spec in zip((one.stage for one in stages), specs, strict=True):
        first = _first_model(spec, loaded[stage.before]) if stage and stage.before else None
        one = LoadedExperiment(spec, source, path.resolve(), root, home, stage, first)
        loaded[stage.name if stage else None] = one
    return tuple(loaded.values())


def _parse_all(stages: Sequence[StageDocument], source: str) -> list[ExperimentSpec]:
    specs, found = [], []
    for one in stages:
        problems = own_model_problems(one.stage, one.document)
        try:
            specs.append(parse_experiment(one.document, source))
        except InvalidExperiment as error:
            problems.extend(error.problems)
        found.append(problems)
    if any(found):
        raise InvalidExperiment.from_problems(source, problems_by_stage([one.stage for one in stages], found))
    return specs


def _first_model(spec: ExperimentSpec, before: LoadedExperiment) -> ModelSpec:
    """The model that the stages before start from. A model keeps the template that it was trained with."""
    own, first = spec.model.chat_template, before.dataset_model
    return first if own == "tokenizer" else first.model_copy(update={"chat_template": own})


def read_document(path: Path, assignments: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
    """The text of the file at `path`, and what it says with `assignments` on top, not checked any further.

    Raises NotFound where there is no file, UsageError for an assignment that is none, InvalidExperiment for a file that
    cannot be read.
    """
    try:
        source = path.read_text()
    except FileNotFoundError:
        raise NotFound(f"{path}: no such experiment file", _close_files(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidExperiment(f"{path}: cannot be read: {error}") from None
    try:
        document = tomllib.loads(source)
    except tomllib.TOMLDecodeError as error:
        raise InvalidExperiment(f"{path}: is not TOML: {error}") from None
    for assignment in assignments:
        apply_assignment(document, assignment)
    return source, document


def parse_experiment(document: dict[str, Any], source: str) -> ExperimentSpec:
    """The typed experiment of `document`. Raises InvalidExperiment with every problem; `source` names the file."""
    return parse_spec(ExperimentSpec, document, source)


SomeSpec = typing.TypeVar("SomeSpec", bound=Spec)


def parse_spec(spec_type: type[SomeSpec], document: dict[str, Any], source: str, prefix: str = "") -> SomeSpec:
    """`document` as a `spec_type`. Raises InvalidExperiment with every problem; paths start with `prefix`."""
    try:
        return spec_type.model_validate(document)
    except ValidationError as error:
        errors = error.errors()
        problems = [_problem(spec_type, one, prefix) for one in errors if not _follows_from_another(one, errors)]
        raise InvalidExperiment.from_problems(source, problems) from None


def apply_assignment(document: dict[str, Any], assignment: str) -> None:
    """Set one value of `document` in place: `training.learning_rate=1e-4`, `dataset.mix.0.rows=100`.

    The value is TOML; what is not TOML is taken as text. Setting one of two keys that exclude each other (`max_steps`
    over a file's `num_epochs`) takes the other away. Raises UsageError for an assignment without `=`.
    """
    key, equals, text = assignment.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(
            f"--set {assignment}: must be PATH=VALUE, got no {'`=`' if not equals else 'path'}",
            "for example: --set training.learning_rate=1e-4",
        )
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    target: Any = document
    for depth, part in enumerate(parts):
        is_last = depth == len(parts) - 1
        if isinstance(target, list):
            if not part.isdigit() or int(part) >= len(target):
                place = ".".join(parts[:depth])
                raise UsageError(f"--set {assignment}: `{place}` has {len(target)} items; `{part}` is none of them")
            index: Any = int(part)
        elif isinstance(target, dict):
            index = part
            if not is_last:
                target.setdefault(part, {})
        else:
            raise UsageError(f"--set {assignment}: `{'.'.join(parts[:depth])}` is a value, not a table")
        if is_last:
            target[index] = value
            for other in excluded_by(index) if isinstance(target, dict) else ():
                target.pop(other, None)
        else:
            target = target[index]


def find_project_root(path: Path) -> Path:
    """The checkout around the experiment file, else around the working directory, else the working directory."""
    working_directory = Path.cwd()
    for start in (path.parent, working_directory):
        for directory in (start, *start.parents):
            if (directory / ".git").exists():
                return directory
    return working_directory


def find_home(project_root: Path) -> Path:
    """`$TUNEWRIGHT_HOME`, absolute; `.tunewright` in the project where it is not set."""
    configured = os.environ.get(HOME_VARIABLE)
    return Path(configured).expanduser().absolute() if configured else project_root / ".tunewright"


def find_cache_root(home: Path) -> str:
    """Where datasets are: `$TUNEWRIGHT_CACHE_ROOT`, a path (made absolute) or a URL; else `datasets` in the home."""
    configured = os.environ.get(CACHE_ROOT_VARIABLE)
    if not configured:
        return str(home / "datasets")
    return configured if "://" in configured else str(Path(configured).expanduser().absolute())


def resolve_model(
    model: ModelSpec, project_root: Path, home: Path, with_digest: bool = True, allow_adapters: bool = False
) -> ModelReference:
    """Where the model of `[model]` is: `run:NAME`, a directory, or a hub id with its revision.

    The digest of a directory takes reading all of it, weights included: without `with_digest` there is none. With
    `allow_adapters` it may be the directory of adapters, which name their base themselves.

    Raises NotFound for a run without a model or a path that is not there, InvalidExperiment for a directory without
    `config.json` and for a hub id without `revision`.
    """
    name = model.name_or_path
    run = name.removeprefix(RUN_PREFIX) if name.startswith(RUN_PREFIX) else None
    directory = RunDir.of(home, run).model if run is not None else project_root / Path(name).expanduser()
    if directory.is_dir():
        if not (directory / "config.json").is_file() and not (allow_adapters and _has_adapters(directory)):
            raise InvalidExperiment.from_problems("experiment", [_no_config_problem(name, directory)])
        sha256 = sha256_of_tree(directory) if with_digest else None
        return ModelReference(name_or_path=str(directory), sha256=sha256, run=run)
    if run is not None:
        raise NotFound(
            f"model.name_or_path: run `{run}` has left no model ({directory})",
            f"launch it first, or wait for its end: `launcher status {run}`",
        )
    if looks_like_path(name) or name.count("/") != 1:
        raise NotFound(f"model.name_or_path: `{name}`: no such directory ({directory})", _close_files(directory))
    if model.revision is None:
        problem = Problem(
            "model.revision",
            f"`{name}` is no directory here, and a hub id needs its commit, got none",
            "40 hexadecimal digits, from the model's page; a branch name would not be reproducible",
        )
        raise InvalidExperiment.from_problems("experiment", [problem])
    return ModelReference(name_or_path=name, revision=model.revision)


def _has_adapters(directory: Path) -> bool:
    return (directory / "adapter_config.json").is_file()


def _no_config_problem(name: str, directory: Path) -> Problem:
    path = "model.name_or_path"
    if _has_adapters(directory):
        hint = 'merge it first: a job with `job = "export"`, or `trainer export CHECKPOINT --merge --to DIR`'
        return Problem(path, f"`{name}` is an adapter, not a model ({directory})", hint)
    hint = "give a directory that transformers' save_pretrained made"
    return Problem(path, f"`{name}` has no config.json ({directory})", hint)


def looks_like_path(name: str) -> bool:
    """Whether `name` can only be meant as a path."""
    return name.startswith((".", "/", "~")) or name.startswith("examples/")


def _close_files(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no directory {path.parent} either"
    close = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    return f"did you mean `{path.parent / close[0]}`?" if close else ""


def _problem(spec_type: type[BaseModel], details: ErrorDetails, prefix: str) -> Problem:
    """One of pydantic's errors, in our words."""
    location = details["loc"]
    path = ".".join(part for part in (prefix, _path_text(location)) if part)
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_keys(spec_type, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"allowed: {', '.join(known) or 'none'}"
        return Problem(path, "unknown key", hint)
    if kind == "missing":
        return Problem(path, "is missing", "it has no default")
    if kind == "value_error":
        return Problem(path, details["msg"].removeprefix("Value error, "))
    if kind == "literal_error":
        close = difflib.get_close_matches(str(value), _quoted(context.get("expected", "")), n=1)
        return Problem(
            path, f"must be one of {context['expected']}, got {value!r}", f"did you mean `{close[0]}`?" if close else ""
        )
    limits = {"greater_than": ("gt", "above"), "greater_than_equal": ("ge", "at least"),
              "less_than": ("lt", "below"), "less_than_equal": ("le", "at most")}  # fmt: skip
    if kind in limits:
        key, words = limits[kind]
        return Problem(path, f"must be {words} {_number(context[key])}, got {value!r}")
    if kind == "too_short":
        return Problem(path, f"must have at least {context['min_length']} item(s), got {context['actual_length']}")
    if kind == "string_pattern_mismatch":
        return Problem(path, f"must match {context['pattern']}, got {value!r}")
    wanted = details["msg"].removeprefix("Input should be ").split(", unable to parse")[0]
    return Problem(path, f"must be {wanted}, got {value!r}")


def _number(limit: float) -> str:
    """A limit as users write it: 0, not 0.0."""
    return str(int(limit)) if limit == int(limit) else str(limit)


def _follows_from_another(error: ErrorDetails, errors: Sequence[ErrorDetails]) -> bool:
    """Whether pydantic only counts a list as too short because an item of it is wrong."""
    depth = len(error["loc"])
    return error["type"] == "too_short" and any(
        len(other["loc"]) > depth and other["loc"][:depth] == error["loc"] for other in errors
    )


def _quoted(expected: str) -> list[str]:
    return [part for part in expected.replace("'", " ").split() if part not in ("or", ",")]


def _path_text(location: tuple[int | str, ...]) -> str:
    """`('dataset', 'mix', 0, 'format')` as users write it: `dataset.mix[0].format`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _known_keys(spec_type: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys the table at `location` may have, as users write them."""
    current: Any = spec_type
    for part in location:
        if isinstance(part, int):
            current = next(iter(typing.get_args(current)), None)
        elif typing.get_origin(current) is dict:  # tables under names of the user's own
            current = typing.get_args(current)[1]
        else:
            fields = getattr(current, "model_fields", {})
            by_key = {field.alias or name: field for name, field in fields.items()}
            current = by_key[part].annotation if part in by_key else None
    fields = getattr(current, "model_fields", {})
    return sorted(field.alias or name for name, field in fields.items())
