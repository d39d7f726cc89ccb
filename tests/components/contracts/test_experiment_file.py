"""The experiment file: every fault at once, each with its path, value, what is allowed and a hint."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tunewright.contracts.errors import InvalidExperiment, NotFound, Problem, UsageError
from tunewright.contracts.experiment import ExperimentSpec, ModelSpec
from tunewright.contracts.experiment_file import (
    apply_assignment,
    find_cache_root,
    find_home,
    load_experiment,
    looks_like_path,
    parse_experiment,
    resolve_model,
)
from tunewright.contracts.files import sha256_of_tree
from tunewright.contracts.rundir import RunDir

GOOD = """
schema = 1
name = "good"
[model]
name_or_path = "model"
[dataset]
[[dataset.mix]]
source = "rows.jsonl"
[training]
num_epochs = 2
"""


def document(**tables: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "schema": 1, "name": "good", "model": {"name_or_path": "model"}, "dataset": {"mix": [{"source": "rows.jsonl"}]},
    }  # fmt: skip
    return {**copy.deepcopy(base), **tables}


def problems_of(given: dict[str, Any]) -> dict[str, Problem]:
    with pytest.raises(InvalidExperiment) as caught:
        parse_experiment(given, "experiment.toml")
    return {problem.path: problem for problem in caught.value.problems}


@pytest.mark.parametrize(
    ("tables", "path", "words"),
    [
        ({"training": {"learning_rate": -1}}, "training.learning_rate", ["above 0", "-1"]),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate", ["finite", "nan"]),
        ({"training": {"learning_rate": "fast"}}, "training.learning_rate", ["number", "'fast'"]),
        (
            {"training": {"lr_schedulr": "linear"}},
            "training.lr_schedulr",
            ["unknown key", "did you mean `lr_scheduler`"],
        ),
        ({"training": {"strategy": "dpd"}}, "training.strategy", ["'fsdp2'", "'dpd'", "did you mean `ddp`"]),
        ({"training": {"warmup_ratio": 1.5}}, "training.warmup_ratio", ["at most 1", "1.5"]),
        ({"training": {"adam_beta1": 1}}, "training.adam_beta1", ["below 1"]),
        ({"training": {"num_epochs": 1, "max_steps": 5}}, "training", ["num_epochs", "max_steps", "exclude"]),
        ({"training": {"decay_ratio": 0.2}}, "training", ["`decay_ratio`", "`warmup_stable_decay` only", "`linear`"]),
        (
            {"training": {"min_learning_rate_ratio": 0.1, "lr_scheduler": "cosine"}},
            "training",
            ["`min_learning_rate_ratio`", "`cosine_with_min_lr` or `warmup_stable_decay`", "`cosine`"],
        ),
        (
            {"training": {"lr_scheduler": "warmup_stable_decay", "warmup_ratio": 0.6, "decay_ratio": 0.5}},
            "training",
            ["`warmup_ratio` (0.6)", "`decay_ratio` (0.5)"],
        ),
        (
            {"training": {"optimizer": "muon", "strategy": "fsdp2"}},
            "training",
            ['`optimizer = "muon"`', '`strategy = "ddp"`', "`fsdp2`"],
        ),
        (
            {"model": {"name_or_path": "a", "pad_embeddings_to_multiple_of": 64}},
            "model",
            ["`pad_embeddings_to_multiple_of`", "when_needed"],
        ),
        ({"evaluation": {"rows": 3, "fraction": 0.1}}, "evaluation", ["one of `mix`, `fraction` and `rows`"]),
        ({"evaluation": {"fraction": 1.0}}, "evaluation.fraction", ["below 1"]),
        ({"cluster": {"nodes": 0}}, "cluster.nodes", ["at least 1", "got 0"]),
        ({"cluster": {"nodes": 1.5}}, "cluster.nodes", ["integer", "1.5"]),
        ({"cluster": {"environment": {"A=B": "1"}}}, "cluster.environment", ["A=B"]),
        ({"dataset": {"mix": []}}, "dataset.mix", ["at least 1 item"]),
        ({"dataset": {"mix": [{"source": "a", "fraction": 0}]}}, "dataset.mix[0].fraction", ["above 0", "got 0"]),
        (
            {"dataset": {"mix": [{"source": "a"}, {"source": "b", "fraction": -0.5}]}},
            "dataset.mix[1].fraction",
            ["-0.5"],
        ),
        ({"dataset": {"mix": [{"source": "a", "rows": 0}]}}, "dataset.mix[0].rows", ["at least 1"]),
        ({"dataset": {"mix": [{"source": "a", "rows": 2, "fraction": 1.0}]}}, "dataset.mix[0]", ["fraction", "rows"]),
        (
            {"dataset": {"mix": [{"fromat": "messages"}]}},
            "dataset.mix[0].fromat",
            ["unknown key", "did you mean `format`"],
        ),
        ({"dataset": {"mix": "rows.jsonl"}}, "dataset.mix", ["tuple", "'rows.jsonl'"]),
        ({"model": {"name_or_path": "a/b", "revision": "main"}}, "model.revision", ["[0-9a-f]{40}", "'main'"]),
        ({"model": {"name_or_path": ""}}, "model.name_or_path", ["at least 1 character"]),
        ({"model": {}}, "model.name_or_path", ["is missing"]),
        ({"model": 3}, "model", ["dictionary", "3"]),
        ({"environment": {"kind": "image"}}, "environment", ["`image`"]),
        ({"environment": {"kind": "pex", "image": "x"}}, "environment", ["`image` goes with"]),
        ({"name": "no spaces"}, "name", ["must match", "no spaces"]),
        ({"name": "a" * 64}, "name", ["must match"]),
        ({"schema": 2}, "schema", ["1", "2"]),
        ({"seed": -1}, "seed", ["at least 0"]),
        ({"training": {"batch_size": 6, "micro_batch_size": 4}}, "", ["training.batch_size (6)", "multiple", "4"]),
        ({"trainnig": {}}, "trainnig", ["unknown key", "did you mean `training`"]),
    ],
)
def test_a_fault_is_told_with_path_value_and_what_is_allowed(
    tables: dict[str, Any], path: str, words: list[str]
) -> None:
    problems = problems_of(document(**tables))
    assert path in problems, problems
    assert [word for word in words if word not in str(problems[path])] == [], str(problems[path])


def test_every_fault_is_told_at_once() -> None:
    given = document(
        name="bad name", cluster={"nodes": 0, "nmae": "local"}, training={"learning_rate": -1},
        dataset={"mix": [{"source": "a", "fraction": 0}], "max_length_tokens": "many"},
    )  # fmt: skip
    assert set(problems_of(given)) == {
        "name", "cluster.nodes", "cluster.nmae", "training.learning_rate", "dataset.mix[0].fraction",
        "dataset.max_length_tokens",
    }  # fmt: skip


def test_the_error_names_the_file_and_counts_its_problems() -> None:
    with pytest.raises(InvalidExperiment) as caught:
        parse_experiment(document(seed=-1, name=""), "mine.toml")
    assert str(caught.value).startswith("mine.toml: 2 problems\n")


def test_a_wrong_item_is_not_also_told_as_a_list_that_is_too_short() -> None:
    assert set(problems_of(document(dataset={"mix": [{"source": ""}]}))) == {"dataset.mix[0].source"}


def test_everything_has_a_default_but_name_model_and_source() -> None:
    spec = parse_experiment(document(), "experiment.toml")
    assert (spec.training.num_epochs, spec.training.max_steps) == (1, None)
    assert spec.dataset.mix[0].fraction == 1.0
    assert parse_experiment(spec.to_document(), "again") == spec


def test_the_resolved_document_names_keys_as_users_write_them() -> None:
    given = parse_experiment(document(), "experiment.toml").to_document()
    assert given["schema"] == 1
    assert "schema_version" not in given


def test_a_spec_cannot_be_changed() -> None:
    spec = parse_experiment(document(), "experiment.toml")
    with pytest.raises(Exception, match="frozen"):
        spec.__setattr__("seed", 3)


def test_processes_and_accumulation_follow_from_the_file() -> None:
    given = document(cluster={"nodes": 2, "processes_per_node": 2}, training={"batch_size": 32, "micro_batch_size": 2})
    spec = parse_experiment(given, "experiment.toml")
    assert (spec.num_processes, spec.accumulation_steps) == (4, 4)


# ---- reading files


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    (root / ".git").mkdir(parents=True)
    (root / "deep").mkdir()
    (root / "deep" / "good.toml").write_text(GOOD)
    monkeypatch.delenv("TUNEWRIGHT_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return root


def test_a_file_is_loaded_with_its_project_and_home(project: Path) -> None:
    loaded = load_experiment(project / "deep" / "good.toml")
    assert (loaded.project_root, loaded.home) == (project, project / ".tunewright")
    assert loaded.source == GOOD
    assert loaded.spec.training.num_epochs == 2


def test_a_file_outside_any_checkout_belongs_to_the_checkout_around_the_working_directory(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "outside.toml").write_text(GOOD)
    monkeypatch.chdir(project / "deep")
    assert load_experiment(tmp_path / "outside.toml").project_root == project


def test_the_home_is_where_the_variable_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(tmp_path / "elsewhere"))
    assert find_home(tmp_path) == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("configured", "expected"),
    [("", "/home/datasets"), ("/shared/caches", "/shared/caches"), ("s3://bucket/caches", "s3://bucket/caches")],
)
def test_datasets_are_in_the_home_or_where_a_variable_says(
    configured: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE_ROOT", configured)
    assert find_cache_root(Path("/home")) == expected


def test_a_missing_file_is_not_found_and_a_close_one_is_proposed(project: Path) -> None:
    with pytest.raises(NotFound, match=r"goood\.toml") as caught:
        load_experiment(project / "deep" / "goood.toml")
    assert "good.toml" in caught.value.hint


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe\x00", b"a = 1\na = 2"])
def test_what_is_not_toml_is_told_without_a_traceback(content: bytes, project: Path) -> None:
    (project / "bad.toml").write_bytes(content)
    with pytest.raises(InvalidExperiment, match=r"bad\.toml"):
        load_experiment(project / "bad.toml")


def test_a_directory_is_told_in_words(project: Path) -> None:
    with pytest.raises(InvalidExperiment, match="cannot be read"):
        load_experiment(project)


# ---- --set


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("seed=3", ("seed",), 3),
        ("training.learning_rate=1e-4", ("training", "learning_rate"), 1e-4),
        ("training.options.target_modules=['q_proj']", ("training", "options", "target_modules"), ["q_proj"]),
        ("dataset.packing=true", ("dataset", "packing"), True),
        ("dataset.mix.0.format=sharegpt", ("dataset", "mix", 0, "format"), "sharegpt"),
        ("name=with=equals", ("name",), "with=equals"),
        ('name="12"', ("name",), "12"),
        ("cluster.environment.NAME=", ("cluster", "environment", "NAME"), ""),
    ],
)
def test_set_changes_one_value(assignment: str, path: tuple[Any, ...], value: Any) -> None:
    given: Any = document()
    apply_assignment(given, assignment)
    for part in path:
        given = given[part]
    assert given == value


@pytest.mark.parametrize(
    "assignment",
    [
        "seed",
        "=3",
        "a..b=1",
        "dataset.mix.1.rows=3",
        "dataset.mix.x.rows=3",
        "name.first=1",
        "dataset.mix.0.source.x=1",
    ],
)
def test_a_set_that_is_none_is_a_usage_error_and_names_itself(assignment: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply_assignment(document(), assignment)
    assert assignment in str(caught.value)


@pytest.mark.parametrize(
    ("assignment", "gone", "there"),
    [("training.max_steps=5", "num_epochs", "max_steps"), ("training.num_epochs=5", "max_steps", "num_epochs")],
)
def test_set_takes_away_the_key_that_excludes_it(assignment: str, gone: str, there: str) -> None:
    given = document(training={gone: 1})
    apply_assignment(given, assignment)
    assert given["training"] == {there: 5}


def test_a_wrong_value_of_set_is_told_like_one_of_the_file(project: Path) -> None:
    with pytest.raises(InvalidExperiment, match=r"training\.learning_rate: must be above 0, got -1"):
        load_experiment(project / "deep" / "good.toml", ["training.learning_rate=-1"])


# ---- the model


def model_in(directory: Path, file: str = "config.json") -> Path:
    directory.mkdir(parents=True)
    (directory / file).write_text("{}")
    return directory


def test_a_model_directory_is_taken_with_its_digest(project: Path) -> None:
    directory = model_in(project / "model")
    reference = resolve_model(ModelSpec(name_or_path="model"), project, project / "home")
    assert (reference.name_or_path, reference.sha256) == (str(directory), sha256_of_tree(directory))


def test_the_model_a_run_left_is_taken_by_the_runs_name(project: Path) -> None:
    directory = model_in(RunDir.of(project / "home", "first").model)
    reference = resolve_model(ModelSpec(name_or_path="run:first"), project, project / "home")
    assert (reference.name_or_path, reference.run) == (str(directory), "first")


@pytest.mark.parametrize("name", ["run:never", "./nowhere", "examples/models/tinny", "nowhere", "a/b/c"])
def test_a_model_that_is_not_there_is_not_found(name: str, project: Path) -> None:
    with pytest.raises(NotFound):
        resolve_model(ModelSpec(name_or_path=name), project, project / "home")


def test_a_hub_id_needs_its_commit(project: Path) -> None:
    with pytest.raises(InvalidExperiment, match="commit"):
        resolve_model(ModelSpec(name_or_path="org/name"), project, project / "home")
    pinned = ModelSpec(name_or_path="org/name", revision="a" * 40)
    assert resolve_model(pinned, project, project / "home").revision == "a" * 40


def test_a_directory_without_config_is_told_apart_from_an_adapter(project: Path) -> None:
    model_in(project / "empty", "readme")
    model_in(project / "adapter", "adapter_config.json")
    with pytest.raises(InvalidExperiment, match=r"no config\.json"):
        resolve_model(ModelSpec(name_or_path="empty"), project, project / "home")
    with pytest.raises(InvalidExperiment, match="is an adapter"):
        resolve_model(ModelSpec(name_or_path="adapter"), project, project / "home")


def test_what_can_only_be_a_path_looks_like_one() -> None:
    assert [name for name in ("./a", "/a", "~/a", "../a", "examples/a", "org/name") if not looks_like_path(name)] == [
        "org/name"
    ]


def test_the_digest_of_an_experiment_does_not_depend_on_where_it_lies() -> None:
    from tunewright.contracts.experiment import ResolvedExperiment

    spec = ExperimentSpec.model_validate(document())
    here = ResolvedExperiment(spec=spec, project_root="/a", home="/b")
    there = ResolvedExperiment(spec=spec, project_root="/c", home="/d")
    other = ResolvedExperiment(spec=spec.model_copy(update={"seed": 18}), project_root="/a", home="/b")
    assert here.digest == there.digest != other.digest
