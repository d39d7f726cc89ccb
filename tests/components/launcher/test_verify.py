"""`verify` answers the checklist, and names every file that is not what the record says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.launcher.project import FAILING, Project

ANSWERED = (
    "code.commit", "code.branch", "code.patch_sha256", "data.digest", "data.sources[0]", "model", "environment.key",
    "environment.sha256", "environment.lock_digest", "environment.python", "environment.packages", "randomness.seeds",
    "randomness.determinism", "hyperparameters", "hardware", "plugins.launcher", "plugins.trainer", "cluster.name",
    "cluster.native_id", "metrics.steps", "metrics.last_loss", "outcome", "resolved.json", "model/model.safetensors",
    "metrics.jsonl", "plan/yard.json", "plan/gate",
)  # fmt: skip


def items_of(document: Any) -> dict[str, Any]:
    return {item["field"]: item for item in document["items"]}


def test_a_whole_run_answers_every_line_of_the_checklist(project: Project) -> None:
    project.launcher("launch", "count.toml")
    document = project.launcher("verify", "count", "--json").document
    items = items_of(document)
    assert [field for field in ANSWERED if items.get(field, {}).get("finding") != "found"] == []
    assert document["complete"] is True and document["not_deterministic"] == ["the weather"]
    assert items["code.commit"]["value"] == project.git("rev-parse", "HEAD").strip()
    assert items["environment.reference"]["finding"] == "not here"
    text = project.launcher("verify", "count").out
    assert "model/model.safetensors" in text and text.splitlines()[-1].endswith(" not here")


def change(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"weights", b"weighed"))


def test_every_file_that_is_not_what_it_was_is_named_and_exits_65(project: Project) -> None:
    project.launcher("launch", "count.toml")
    run = project.run()
    change(run / "model" / "model.safetensors")
    (run / "model" / "config.json").unlink()
    (run / "model" / "stray.safetensors").write_text("from elsewhere")
    (run / "plan" / "gate").write_text("another gate")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines[:-1], lines[-1].replace('"loss": ', '"loss": 9')]) + "\n")
    resolved = json.loads((run / "resolved.json").read_text())
    (run / "resolved.json").write_text(json.dumps({**resolved, "seed": 18}))
    answer = project.launcher("verify", "count", "--json", expect=65)
    found = {item["field"]: item["finding"] for item in answer.document["items"] if item["finding"] != "found"}
    assert found == {
        "model/model.safetensors": "differs", "model/config.json": "missing", "model/stray.safetensors": "differs",
        "plan/gate": "differs", "metrics.jsonl": "differs", "resolved.json": "differs", "data.path": "not here",
        "environment.reference": "not here",
    }  # fmt: skip
    assert all(field in answer.err for field in ("model/model.safetensors", "plan/gate", "6 of "))
    assert "must be" in items_of(answer.document)["model/model.safetensors"]["why"]


def test_a_dataset_that_is_not_what_it_was_is_told(project: Project) -> None:
    project.launcher("launch", "count.toml")
    cache = Path(project.json("count", "dataset.json")["path"])
    (cache / "manifest.json").write_text("{}")
    assert "data.path: differs" in project.launcher("verify", "count", expect=65).err


def test_a_record_that_was_changed_is_told_by_its_own_digest(project: Project) -> None:
    project.launcher("launch", "count.toml")
    record = project.json("count", "provenance.json")
    record["hyperparameters"]["training"]["learning_rate"] = 1.0
    (project.run() / "provenance.json").write_text(json.dumps(record))
    answer = project.launcher("verify", "count", expect=65)
    assert "hyperparameters: differs: they give the digest" in answer.err


def test_what_a_killed_run_could_not_record_is_missing(project: Project) -> None:
    project.launcher("launch", "count.toml", *FAILING, expect=42)
    answer = project.launcher("verify", "count", expect=65)
    assert "randomness.seeds: missing" in answer.err and "hardware: missing" in answer.err
    assert "code.commit" not in answer.err


def test_the_patch_of_a_dirty_tree_is_compared(project: Project) -> None:
    (project.root / "stray.txt").write_text("not committed\n")
    project.launcher("launch", "count.toml", "--allow-dirty")
    project.launcher("verify", "count")
    patch = project.run() / "dirty.patch"
    patch.write_text(patch.read_text().replace("not", "now"))
    assert "dirty.patch: differs" in project.launcher("verify", "count", expect=65).err
    patch.unlink()
    assert "dirty.patch: missing" in project.launcher("verify", "count", expect=65).err


def test_a_record_alone_is_judged_without_its_files(project: Project, tmp_path: Path) -> None:
    project.launcher("launch", "count.toml")
    copy = tmp_path / "copied.json"
    copy.write_bytes((project.run() / "provenance.json").read_bytes())
    document = project.launcher("verify", str(copy), "--json").document
    assert document["run"] == "count" and "model/model.safetensors" not in items_of(document)
    assert project.launcher("verify", str(project.run()), "--json").document["record"].endswith("provenance.json")


@pytest.mark.parametrize(
    ("named", "code", "words"),
    [
        ("cuont", 66, "did you mean `count`"),
        ("nowhere/provenance.json", 66, "no such record"),
        ("count.toml", 65, "is not the record"),
    ],
)
def test_what_is_no_record_is_told(named: str, code: int, words: str, project: Project) -> None:
    project.launcher("launch", "count.toml")
    assert words in project.launcher("verify", named, expect=code).err


def test_a_run_that_goes_on_has_no_record_yet(project: Project) -> None:
    project.launcher("launch", "count.toml")
    (project.run() / "provenance.json").unlink()
    assert "has no record" in project.launcher("verify", "count", expect=66).err
