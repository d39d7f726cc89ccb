"""One file, several stages: what each is, where its model comes from, and faults that name it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tunewright.contracts.errors import InvalidExperiment, UsageError
from tunewright.contracts.experiment_file import LoadedExperiment, load_experiment, load_stages
from tunewright.contracts.stages import merge_table, split_stages

REVISION = "a" * 40
LONG = "a" * 60
FILE = f"""
schema = 1
name = "chat"
[model]
name_or_path = "org/model"
revision = "{REVISION}"
weights = "random"
chat_template = "tulu"
[dataset]
max_length_tokens = 64
packing = true
[[dataset.mix]]
source = "rows.jsonl"
[training]
variant = "lora"
num_epochs = 2
learning_rate = 1e-3
[training.options]
rank = 4
[cluster.environment]
A = "1"
"""

TWO = """
[[stages]]
name = "sft"
[[stages]]
name = "dpo"
[stages.training]
variant = "full"
max_steps = 5
[stages.dataset]
mix = [{source = "pairs.jsonl"}]
[stages.cluster.environment]
B = "2"
"""


def stages_of(directory: Path, text: str, *assignments: str, file: str = FILE) -> tuple[LoadedExperiment, ...]:
    (directory / ".git").mkdir(exist_ok=True)
    path = directory / "chat.toml"
    path.write_text(file + text)
    return load_stages(path, assignments)


def test_a_stage_without_tables_is_the_file_as_it_is(tmp_path: Path) -> None:
    plain, first = stages_of(tmp_path, "")[0], stages_of(tmp_path, TWO)[0]
    assert plain.stage is None and first.stage is not None
    assert first.spec.name == "chat-sft"
    assert first.spec.model_copy(update={"name": "chat"}) == plain.spec


def test_a_later_stage_is_the_file_with_its_tables_on_top_key_by_key(tmp_path: Path) -> None:
    second = stages_of(tmp_path, TWO)[1].spec
    assert [one.source for one in second.dataset.mix] == ["pairs.jsonl"]
    assert (second.dataset.max_length_tokens, second.dataset.packing) == (64, True)
    assert (second.training.max_steps, second.training.num_epochs) == (5, None)
    assert second.training.learning_rate == 1e-3
    assert second.cluster.environment == {"A": "1", "B": "2"}


def test_a_later_stage_starts_from_the_trained_model_of_the_stage_before(tmp_path: Path) -> None:
    model = stages_of(tmp_path, TWO)[1].spec.model
    assert (model.name_or_path, model.weights, model.revision) == ("run:chat-sft", "pretrained", None)
    assert model.chat_template == "tulu"


def test_a_pipeline_that_is_launched_under_another_name_has_other_runs(tmp_path: Path) -> None:
    first, second = (one.in_pipeline("mine") for one in stages_of(tmp_path, TWO))
    assert second.spec.model.name_or_path == "run:mine-sft"
    assert first.stage and first.stage.run_in("mine") == "mine-sft"
    assert first.spec == stages_of(tmp_path, TWO)[0].spec


def test_a_stage_may_choose_its_own_model(tmp_path: Path) -> None:
    own = '[[stages]]\nname = "a"\n[[stages]]\nname = "b"\n[stages.model]\nname_or_path = "elsewhere"\n'
    _, second, third = stages_of(tmp_path, own + '[[stages]]\nname = "c"\n')
    assert (second.spec.model.name_or_path, second.spec.model.revision) == ("elsewhere", None)
    assert second.dataset_model is second.spec.model
    assert third.spec.model.name_or_path == "run:chat-b" and third.dataset_model.name_or_path == "elsewhere"


def test_the_datasets_of_all_stages_are_made_with_the_first_models_tokenizer(tmp_path: Path) -> None:
    three = TWO + '[[stages]]\nname = "last"\n[stages.model]\nchat_template = "zephyr"\n'
    first, second, third = (one.dataset_model for one in stages_of(tmp_path, three))
    assert {(one.name_or_path, one.revision) for one in (first, second, third)} == {("org/model", REVISION)}
    assert (second.chat_template, third.chat_template) == ("tulu", "zephyr")


def test_a_stage_that_takes_the_tokenizers_template_gets_the_one_its_model_was_trained_with(tmp_path: Path) -> None:
    second = stages_of(tmp_path, TWO, 'stages.1.model={chat_template = "tokenizer"}')[1]
    assert second.dataset_model.chat_template == "tulu"


LORA = {"variant": "lora"}


@pytest.mark.parametrize(
    ("name", "below", "above", "merged"),
    [
        ("training", {"num_epochs": 2}, {"max_steps": 3}, {"max_steps": 3}),
        ("evaluation", {"fraction": 0.1, "every": "epoch"}, {"mix": [1]}, {"mix": [1], "every": "epoch"}),
        ("training", {"variant": "lora", "options": {"rank": 4}}, {"variant": "dpo"}, {"variant": "dpo"}),
        ("training", {"options": {"a": 1}}, LORA | {"options": {"b": 2}}, LORA | {"options": {"b": 2}}),
        ("training", LORA | {"options": {"a": 1}}, LORA, LORA | {"options": {"a": 1}}),
        ("training", {"options": {"a": 1}}, {"variant": "full"}, {"variant": "full", "options": {"a": 1}}),
        ("training", {"options": {"a": 1, "b": 1}}, {"options": {"b": 2}}, {"options": {"a": 1, "b": 2}}),
        ("training", {"options": {"rows": 1}}, {"options": {"fraction": 2}}, {"options": {"rows": 1, "fraction": 2}}),
        ("cluster", {"name": "x", "options": {"a": 1}}, {"name": "y"}, {"name": "y"}),
        ("dataset", {"mix": [1, 2], "packing": True}, {"mix": [3]}, {"mix": [3], "packing": True}),
        ("seed", 17, 18, 18),
        ("evaluation", None, {"rows": 3}, {"rows": 3}),
    ],
)  # fmt: skip
def test_tables_are_merged(name: str, below: Any, above: Any, merged: Any) -> None:
    assert merge_table(name, below, above) == merged


def test_set_reaches_all_stages_or_one(tmp_path: Path) -> None:
    assignments = ("training.learning_rate=1e-5", "stages.1.training.max_steps=9", "stages.0.seed=3")
    first, second = (one.spec for one in stages_of(tmp_path, TWO, *assignments))
    assert first.training.learning_rate == second.training.learning_rate == 1e-5
    assert (first.training.num_epochs, second.training.max_steps) == (2, 9)
    assert (first.seed, second.seed) == (3, 17)


def problems_of(directory: Path, text: str, *assignments: str, file: str = FILE) -> dict[str, str]:
    with pytest.raises(InvalidExperiment) as caught:
        stages_of(directory, text, *assignments, file=file)
    return {problem.path: f"{problem.message} {problem.hint}" for problem in caught.value.problems}


def test_a_fault_of_a_stage_names_the_stage_and_one_of_the_file_is_told_once(tmp_path: Path) -> None:
    wrong = ("stages.1.training.learning_rate=-1", "cluster.nodes=0", "stages.0.dataset.packin=true")
    problems = problems_of(tmp_path, TWO, *wrong)
    expected = {"stages.1 (dpo): training.learning_rate", "cluster.nodes", "stages.0 (sft): dataset.packin"}
    assert set(problems) == expected
    assert "did you mean `packing`?" in problems["stages.0 (sft): dataset.packin"]


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("stages = 3\n", "stages", "one or more tables"),
        ("stages = []\n", "stages", "one or more tables"),
        ("[[stages]]\n", "stages.0.name", "is missing"),
        ("[[stages]]\nname = 'a b'\n", "stages.0.name", "must match"),
        ("[[stages]]\nname = 'a'\n[[stages]]\nname = 'a'\n", "stages", "2 stages are called `a`"),
        ("[[stages]]\nname = 'a'\n[stages.trainin]\nseed = 1\n", "stages.0.trainin", "did you mean `training`?"),
        ("[[stages]]\nname = 'a'\nschema = 1\n", "stages.0.schema", "unknown key"),
        ("[[stages]]\nname = 'a'\ntraining = 3\n", "stages.0 (a): training", "got 3"),
        (f"[[stages]]\nname = 'a'\n[[stages]]\nname = '{LONG}'\n", f"stages.1 ({LONG}): name", "must match"),
        (
            "[[stages]]\nname = 'a'\n[[stages]]\nname = 'b'\n[stages.model]\nweights = 'random'\n",
            "stages.1 (b): model.weights", "starts from the model of stage `a`",
        ),
        (
            f"[[stages]]\nname = 'a'\n[[stages]]\nname = 'b'\n[stages.model]\nrevision = '{REVISION}'\n",
            "stages.1 (b): model.revision", "set `model.name_or_path` in this stage too",
        ),
    ],
)  # fmt: skip
def test_a_wrong_stage_is_said_to_be_wrong(text: str, path: str, words: str, tmp_path: Path) -> None:
    file = text + FILE if text.startswith("stages =") else FILE + text
    problems = problems_of(tmp_path, "", file=file)
    assert list(problems) == [path] and words in problems[path]


def test_a_table_that_every_stage_brings_need_not_be_in_the_file(tmp_path: Path) -> None:
    file = "schema = 1\nname = 'x'\n[model]\nname_or_path = 'model'\n"
    own = "[[stages]]\nname = '{}'\n[stages.dataset]\nmix = [{{source = '{}.jsonl'}}]\n"
    first, second = stages_of(tmp_path, own.format("a", "a") + own.format("b", "b"), file=file)
    assert [one.spec.dataset.mix[0].source for one in (first, second)] == ["a.jsonl", "b.jsonl"]
    problems = problems_of(tmp_path, own.format("a", "a") + "[[stages]]\nname = 'b'\n", file=file)
    assert list(problems) == ["stages.1 (b): dataset"] and "is missing" in problems["stages.1 (b): dataset"]


def test_one_stage_can_be_asked_for_and_an_unknown_one_is_an_error(tmp_path: Path) -> None:
    stages_of(tmp_path, TWO)
    path = tmp_path / "chat.toml"
    assert load_experiment(path, stage="dpo").spec.name == "chat-dpo"
    assert load_experiment(path).spec.name == "chat-sft"
    with pytest.raises(UsageError, match=r"stage `ppo`: .* has the stages `sft`, `dpo`"):
        load_experiment(path, stage="ppo")
    stages_of(tmp_path, "")
    with pytest.raises(UsageError, match="has no stages"):
        load_experiment(path, stage="sft")


def test_a_document_without_stages_is_left_as_it_is() -> None:
    document = {"name": "x"}
    (only,) = split_stages(document, "x.toml")
    assert only.stage is None and only.document is document


def test_a_stage_starts_after_the_one_before_it_or_after_those_it_names(tmp_path: Path) -> None:
    more = """
[[stages]]
name = "side"
after = ["sft"]
[[stages]]
name = "judge"
job = "evaluate"
after = ["side"]
[[stages]]
name = "last"
after = ["judge", "dpo"]
[[stages]]
name = "alone"
after = []
"""
    stages = [loaded.stage for loaded in stages_of(tmp_path, TWO + more)]
    told = {stage.name: (stage.after, stage.before) for stage in stages if stage}
    assert told == {
        "sft": ((), None),
        "dpo": (("sft",), "sft"),
        "side": (("sft",), "sft"),
        "judge": (("side",), "side"),
        "last": (("judge", "dpo"), "side"),  # the model that was evaluated: an evaluation leaves none
        "alone": ((), None),
    }


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ('["nobody"]', "stages.1.after: `nobody` is no stage of this file"),
        ('["late"]', "stages.1.after: `late` is not before this one in the file"),
        ('["mid"]', "stages.1.after: `mid` is not before this one in the file"),
        ('"sft"', "stages.1.after: must be a list of names, got 'sft'"),
        ("[3]", "stages.1.after: must be a list of names, got [3]"),
    ],
)
def test_a_stage_that_starts_after_none_before_it_is_refused(after: str, words: str, tmp_path: Path) -> None:
    text = f"""
[[stages]]
name = "sft"
[[stages]]
name = "mid"
after = {after}
[[stages]]
name = "late"
"""
    with pytest.raises(InvalidExperiment) as caught:
        stages_of(tmp_path, text)
    assert words in str(caught.value)
