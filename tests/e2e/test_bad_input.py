"""Every bad input ends with one message, its promised exit code, and nothing half-made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from e2e.packaged import SHORT, Project

GOOD = """
schema = 1
name = "bad-input"
[model]
name_or_path = "examples/models/tiny"
weights = "random"
chat_template = "tulu"
[dataset]
max_length_tokens = 256
[[dataset.mix]]
source = "{source}"
[training]
max_steps = 1
"""


GOOD_ROW = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.mark.parametrize(
    ("assignments", "code", "words"),
    [
        (["cluster.name=locla", "training.variant=lorra"], 78, ["locla", "`local`", "lorra", "`lora`"]),
        (["model.chat_template=tullu"], 78, ["tullu", "tulu"]),
        (["dataset.mix.0.format=mesages"], 78, ["mesages", "messages"]),
        (["dataset.mix.0.source=nowhere.jsonl"], 66, ["dataset.mix[0].source", "nowhere.jsonl"]),
        (["model.name_or_path=examples/models/tinny"], 66, ["model.name_or_path", "tinny"]),
        (["model.name_or_path=examples/data"], 78, ["model.name_or_path", "config.json"]),
        (["model.name_or_path=run:never"], 66, ["never"]),
        (["cluster.nodes=2", "training.micro_batch_size=1"], 77, ["cluster.nodes", "local"]),
        (["cluster.options.memry_gib=1"], 78, ["cluster.options.memry_gib", "memory_gib"]),
        (["no-equals-sign"], 64, ["no-equals-sign", "="]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(
    assignments: list[str], code: int, words: list[str], project: Project
) -> None:
    before = files_below(project.home / "runs")
    result = project.launcher("launch", "examples/quickstart.toml", *changed(assignments), expect=code)
    assert [word for word in words if word not in result.stderr] == [], result.stderr
    assert files_below(project.home / "runs") == before


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], ["rows.jsonl"]),
        ([GOOD_ROW, {"text": "x"}], ["rows.jsonl:2", "messages"]),
        ([{"messages": []}], ["rows.jsonl:1"]),
        ([{"messages": [{"role": "user"}]}], ["rows.jsonl:1", "content"]),
    ],
)  # fmt: skip
def test_bad_rows_are_named_by_file_and_line(
    rows: list[object], words: list[str], project: Project, tmp_path: Path
) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    experiment = tmp_path / "bad.toml"
    experiment.write_text(GOOD.format(source=source))
    before = files_below(project.home)
    result = project.launcher("launch", str(experiment), expect=78)
    assert [word for word in words if word not in result.stderr] == [], result.stderr
    assert [path for path in files_below(project.home) - before if not path.name.startswith(".")] == []


def test_all_faults_of_a_file_are_told_at_once_each_with_what_is_allowed(project: Project) -> None:
    faults = ["training.learning_rat=1e-4", "dataset.max_length_tokens=many", "training.learning_rate=-1",
              "dataset.mix.0.fraction=0", "cluster.nodes=0", "model.dtype=floot"]  # fmt: skip
    before = files_below(project.home / "runs")
    result = project.launcher("launch", "examples/quickstart.toml", *changed(faults), expect=78)
    told = [
        "training.learning_rat: unknown key\n    hint: did you mean `learning_rate`?",
        "dataset.max_length_tokens: must be a valid integer, got 'many'",
        "training.learning_rate: must be above 0, got -1",
        "dataset.mix[0].fraction: must be above 0, got 0",
        "cluster.nodes: must be at least 1, got 0",
        "model.dtype: must be one of",
    ]
    assert [words for words in told if words not in result.stderr] == [], result.stderr
    assert files_below(project.home / "runs") == before


def test_an_unknown_command_and_an_unknown_run_have_their_codes(project: Project) -> None:
    project.launcher("lunch", expect=64)
    project.launcher("launch", expect=64)
    project.launcher("status", "no-such-run", expect=66)
    project.launcher("launch", "examples/no-such.toml", expect=66)


def test_a_dirty_tree_is_refused_and_kept_when_allowed(project: Project) -> None:
    stray = project.root / "examples" / "stray.txt"
    stray.write_text("not committed\n")
    try:
        result = project.launcher("launch", "examples/quickstart.toml", expect=77)
        assert "stray.txt" in result.stderr
        one_step = (*SHORT, "--set", "training.max_steps=1")
        run = project.launch("examples/quickstart.toml", "--allow-dirty", "--name", "dirty", *one_step)
    finally:
        stray.unlink()
    assert "not committed" in (Path(run["run_dir"]) / "dirty.patch").read_text()
    record = json.loads(Path(run["record"]).read_text())
    assert record["code"]["dirty"] is True and len(record["code"]["patch_sha256"]) == 64


def changed(assignments: list[str]) -> list[str]:
    """`--set` of each."""
    return [word for assignment in assignments for word in ("--set", assignment)]


def files_below(directory: Path) -> set[Path]:
    """Every file below a directory."""
    return {path for path in directory.rglob("*") if path.is_file()}
