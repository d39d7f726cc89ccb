"""`reproduce` runs a run again from its record alone, and says what is the same and what is not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from components.launcher.project import FAILING, Project
from tunewright.contracts.errors import IntegrityError
from tunewright.contracts.experiment_file import parse_experiment
from tunewright.contracts.files import sha256_of_file
from tunewright.contracts.provenance import ProvenanceRecord
from tunewright.launcher.recorded_code import Place
from tunewright.launcher.reproducing import refuse_other_data


def clone_of(project: Project, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A fresh clone with a home of its own, as somebody else has it; the working directory."""
    root = directory / "clone"
    subprocess.run(["git", "clone", "--quiet", str(project.root), str(root)], check=True)
    clone = Project(root, directory / "other-home")
    clone.home.mkdir()
    monkeypatch.chdir(root)
    monkeypatch.setenv("TUNEWRIGHT_HOME", str(clone.home))
    return clone


def copied_record(project: Project, directory: Path, run: str = "count") -> Path:
    """The record alone, as it is sent to somebody."""
    copy = directory / "sent" / "provenance.json"
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes((project.run(run) / "provenance.json").read_bytes())
    return copy


def fields_of(document: Any) -> dict[str, Any]:
    return {one["field"]: one for one in document["compared"]}


def test_a_run_is_the_same_again_from_its_record_alone_in_a_fresh_clone(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.launcher("launch", "count.toml", "--set", "training.max_steps=5")
    record = copied_record(project, tmp_path)
    clone = clone_of(project, tmp_path, monkeypatch)
    answer = clone.launcher("reproduce", str(record), "--json")
    document = answer.last_document
    assert (document["run"], document["reproduces"], document["same"]) == ("count-reproduced", "count", True)
    fields = fields_of(document)
    assert {"model/model.safetensors", "metrics.losses_sha256", "data.digest", "environment.sha256"} <= fields.keys()
    assert all(one["same"] for one in document["compared"] if one["must_be_same"])
    assert (clone.run("count-reproduced") / "model" / "model.safetensors").read_text() == "weights after 5 steps"
    kept = clone.json("count-reproduced", "reproduction.json")
    assert {key: document[key] for key in kept} == kept
    assert project.launcher("verify", "count-reproduced").out
    assert "model/model.safetensors" in clone.launcher("reproduce", str(record)).out
    assert (clone.home / "runs" / "count-reproduced-2").is_dir()


@pytest.mark.parametrize("is_committed", [False, True])
def test_a_changed_row_is_refused_by_the_sources_field_before_anything_is_built(
    is_committed: bool, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.launcher("launch", "count.toml")
    record = copied_record(project, tmp_path)
    clone = clone_of(project, tmp_path, monkeypatch)
    (clone.root / "rows.jsonl").write_text('{"changed": 1}\n')
    if is_committed:
        clone.git("commit", "--quiet", "-am", "another row")
    answer = clone.launcher("reproduce", str(record), expect=65)
    assert "dataset.mix[0].source: rows.jsonl: sha256 is " in answer.err and ", must be " in answer.err
    assert list(clone.home.iterdir()) == []


def test_data_that_is_not_there_is_told_by_its_field(project: Project) -> None:
    project.launcher("launch", "count.toml")
    (project.root / "rows.jsonl").unlink()
    assert "dataset.mix[0].source: `rows.jsonl`: no such file" in project.launcher("reproduce", "count", expect=65).err


def test_another_commit_is_checked_out_below_the_home_and_taken_away(project: Project) -> None:
    project.launcher("launch", "count.toml")
    commit = project.git("rev-parse", "HEAD").strip()
    (project.root / "train.py").write_text("raise SystemExit(3)\n")
    project.git("commit", "--quiet", "-am", "broken since")
    answer = project.launcher("reproduce", "count", "--json")
    assert answer.last_document["same"] is True
    assert project.json("count-reproduced", "job.json")["origin"]["code"]["commit"] == commit
    assert f"commit {commit[:12]}, checked out at" in answer.err
    worktrees = project.home / "worktrees"
    assert [path.name for path in worktrees.iterdir() if not path.name.startswith(".")] == []
    assert len(project.git("worktree", "list").splitlines()) == 1
    project.launcher("reproduce", "count", "--keep")
    assert (worktrees / commit[:12] / "train.py").read_text() != "raise SystemExit(3)\n"


def test_the_patch_of_a_dirty_tree_is_applied_and_one_that_is_missing_is_told(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (project.root / "train.py").read_text()
    (project.root / "train.py").write_text(source.replace("weights after", "patched after"))
    (project.root / "new.txt").write_text("not committed\n")
    project.launcher("launch", "count.toml", "--allow-dirty")
    record = copied_record(project, tmp_path)
    clone = clone_of(project, tmp_path, monkeypatch)
    answer = clone.launcher("reproduce", str(record), expect=66)
    assert "code.patch_sha256" in answer.err and "dirty.patch" in answer.err
    patch = (project.run() / "dirty.patch").read_bytes()
    record.with_name("dirty.patch").write_bytes(patch + b"\n")
    assert "code.patch_sha256" in clone.launcher("reproduce", str(record), expect=65).err
    record.with_name("dirty.patch").write_bytes(patch)
    document = clone.launcher("reproduce", str(record), "--json").last_document
    assert document["same"] is True and fields_of(document)["code.patch_sha256"]["same"] is True
    weights = clone.run("count-reproduced") / "model" / "model.safetensors"
    assert weights.read_text() == "patched after 3 steps"


def test_a_commit_that_the_clone_does_not_know_is_refused_in_words(project: Project) -> None:
    project.launcher("launch", "count.toml")
    record = project.json("count", "provenance.json")
    record["code"]["commit"] = "0123456789" * 4
    (project.run() / "provenance.json").write_text(json.dumps(record))
    answer = project.launcher("reproduce", "count", expect=66)
    assert "code.commit" in answer.err and "0123456789" in answer.err and "git fetch" in answer.err


def test_other_weights_are_named_and_what_may_be_why_is_said(project: Project) -> None:
    project.launcher("launch", "count.toml", "--set", "training.options.salt=true")
    answer = project.launcher("reproduce", "count", "--json", expect=65)
    document = answer.last_document
    assert document["same"] is False and document["state"] == "SUCCEEDED"
    differing = [field for field, one in fields_of(document).items() if one["must_be_same"] and not one["same"]]
    assert differing == ["model/model.safetensors"]
    assert "model/model.safetensors: was " in answer.err and "may be why: the weather" in answer.err


def test_the_first_step_whose_loss_is_another_is_named(project: Project) -> None:
    project.launcher("launch", "count.toml")
    record, lines = project.json("count", "provenance.json"), project.lines("count", "metrics.jsonl")
    lines[1]["loss"] = 2.25
    (project.run() / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record["metrics"]["losses_sha256"] = "0" * 64
    (project.run() / "provenance.json").write_text(json.dumps(record))
    answer = project.launcher("reproduce", "count", expect=65)
    assert "metrics.losses_sha256" in answer.err and "at step 2: 2.25 was, 2.0 is" in answer.err


def test_the_runs_own_exit_code_passes_through(project: Project) -> None:
    project.launcher("launch", "count.toml", *FAILING, expect=42)
    answer = project.launcher("reproduce", "count", "--json", expect=42)
    document = answer.last_document
    assert (document["state"], document["reproduces"], document["same"]) == ("FAILED", "count", None)


def test_a_name_is_taken_and_a_run_that_has_succeeded_is_only_compared(project: Project) -> None:
    project.launcher("launch", "count.toml")
    project.launcher("reproduce", "count", "--name", "again")
    started = (project.run("again") / "logs" / "0.log").stat().st_mtime_ns
    answer = project.launcher("reproduce", "count", "--name", "again")
    assert "it is not run again" in answer.err and "same" in answer.out
    assert (project.run("again") / "logs" / "0.log").stat().st_mtime_ns == started


def test_a_record_that_was_changed_or_does_not_say_enough_is_refused(project: Project) -> None:
    project.launcher("launch", "count.toml")
    record = project.json("count", "provenance.json")
    path = project.run() / "provenance.json"
    path.write_text(json.dumps({**record, "hyperparameters": {**record["hyperparameters"], "seed": 3}}))
    assert "hyperparameters: changed since" in project.launcher("reproduce", "count", expect=65).err
    path.write_text(json.dumps({**record, "hyperparameters": {}, "code": {}}))
    answer = project.launcher("reproduce", "count", expect=65)
    assert "no hyperparameters and no code.commit" in answer.err


def test_another_model_than_the_recorded_one_is_refused_by_its_field(project: Project) -> None:
    project.launcher("launch", "count.toml")
    (project.root / "model" / "config.json").write_text('{"hidden": 1}')
    answer = project.launcher("reproduce", "count", expect=65)
    assert "model.name_or_path: `model`: sha256 is" in answer.err


def test_on_another_cluster_the_cluster_is_told_and_its_options_are_its_own(project: Project) -> None:
    project.launcher("launch", "count.toml", "--set", "cluster.options.colour=red")
    config = project.root.parent / "config" / "tunewright" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[profiles.blue]\nname = "yard"\n[profiles.blue.options]\ncolour = "blue"\n')
    answer = project.launcher("reproduce", "count", "--cluster", "blue", "--json")
    assert project.json("count-reproduced", "resolved.json")["cluster"]["options"]["colour"] == "blue"
    assert answer.last_document["changed_on_purpose"] == ["it runs on `blue`, and ran on `yard`"]


def record_with(data: dict[str, Any]) -> ProvenanceRecord:
    tables = ("model", "environment", "randomness", "hyperparameters", "hardware", "plugins", "cluster", "metrics")
    empty: dict[str, Any] = {table: {} for table in tables}
    document = {**empty, "checkpoints": [], "model_files": [], "outcome": {"state": "SUCCEEDED"}}
    code = {"commit": "c" * 40}
    return ProvenanceRecord.model_validate({**document, "run": "r", "written_at": "now", "code": code, "data": data})


def test_of_several_files_those_that_changed_are_named_and_others_beside_them_are_no_fault(tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    for name in ("a.jsonl", "b.jsonl", "README.md"):
        (parts / name).write_text(f"of {name}\n")
    digests = [sha256_of_file(parts / name) for name in ("a.jsonl", "b.jsonl")]
    source = {"files": [{"sha256": digest} for digest in digests]}
    record = record_with({"sources": [source, source], "evaluation": {"sources": [source]}})
    experiment = parse_experiment({
        "schema": 1, "name": "x", "model": {"name_or_path": "m"},
        "dataset": {"mix": [{"source": "parts/*.jsonl"}, {"source": "parts"}]},
        "evaluation": {"mix": [{"source": str(parts / "*.jsonl")}]},
    }, "x")  # fmt: skip
    place = Place(tmp_path, tmp_path / "home")
    refuse_other_data(record, experiment, place)
    (parts / "b.jsonl").write_text("changed\n")
    with pytest.raises(IntegrityError) as refused:
        refuse_other_data(record, experiment, place)
    lines = refused.value.message.splitlines()
    assert lines[1].startswith("  dataset.mix[0].source: parts/b.jsonl: sha256 is ") and lines[1].endswith(digests[1])
    assert lines[2] == "  dataset.mix[1].source: `parts`: 1 of its 2 files are gone or changed"
    assert lines[3].startswith("  evaluation.mix[0].source: parts/b.jsonl: sha256 is ")
    (parts / "b.jsonl").unlink()
    with pytest.raises(IntegrityError, match=r"dataset.mix\[0\].source: `parts/\*.jsonl`: 1 of its 2 files are gone"):
        refuse_other_data(record, experiment, place)
